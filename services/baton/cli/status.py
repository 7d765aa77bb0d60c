"""`baton status`: what is running, how busy it is, and what is wrong. Once; `baton top` keeps looking.

    baton status                                     a router, or a single pod, on http://localhost:8000
    baton status --url http://router:8000
    baton status --pods decode-0:8000,prefill-0:8001 pods themselves, when no router can be reached
    baton status --json                              the same for a script

The exit status is 1 when a pod is not ready or not there, so that a script can wait for a cluster.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import msgspec

from baton.cli.fleet.read import Picture, held_key, look
from baton.cli.fleet.table import lines


def main(arguments: Sequence[str]) -> int:
    args = parser("baton status", __doc__ or "").parse_args(arguments)
    picture = look(args.url, pods(args.pods), args.api_key or held_key())
    if args.json:
        print(msgspec.json.encode(summary(picture)).decode())
    else:
        print("\n".join(lines(picture, None, sys.stdout.isatty() and "NO_COLOR" not in os.environ)))
    return 1 if picture.troubles else 0


def summary(picture: Picture) -> dict[str, object]:
    """For scripts; leases without what only pods need."""
    told = []
    for pod in picture.pods:
        lease = msgspec.structs.replace(pod.lease, agents=()) if pod.lease else None
        told.append(
            {"name": pod.name, "role": pod.role, "state": pod.state, "detail": pod.detail, "lease": lease}
        )
    router = picture.router
    front = {"address": router.address, "state": router.state, "detail": router.detail} if router else None
    return {"router": front, "pods": told, "troubles": picture.troubles}


def pods(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def parser(program: str, text: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        program, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--url", default="http://localhost:8000", help="of the router; default http://localhost:8000"
    )
    made.add_argument(
        "--pods", default="", metavar="HOST:PORT,...", help="ask these pods instead of a router"
    )
    made.add_argument(
        "--api-key",
        default="",
        help="an operator's, if the router has keys; default BATON_API_KEY, OPENAI_API_KEY",
    )
    if program.endswith("status"):
        made.add_argument("--json", action="store_true", help="everything, as JSON")
    return made
