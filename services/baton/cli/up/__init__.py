"""`baton up`: a whole Baton on this machine: router, prefill pods, decode pods, Redis. Ctrl-C ends all of it.

    baton up                                    the bundled tiny model on the CPU
    baton up --prefill 2 --decode 3             more pods
    baton up --model DIR --device cuda --tp 2   GPUs: each pod takes as many as it has ranks
    baton up --unified --decode 2               pods that prefill and decode, no hand-overs
    baton up --redis-url redis://host:6379      a Redis that is there already

Every pod is a process of its own, as in a cluster, with a real NIXL hand-over between them and a real Redis.
A pod that dies is started again. The page at /ui/ shows what they do.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    from baton.cli.up.choice import Choice
    from baton.cli.up.run import run

    return asyncio.run(run(Choice.of(args)))


def parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser("baton up", description=__doc__, formatter_class=plain)
    add = made.add_argument
    add("--model", default="", help="directory or hub id; default: the tiny model that ships with Baton")
    add("--name", default="", help="what clients call it; default: tiny, or the model's directory or id")
    add("--load-format", default="auto", help="dummy draws random weights")
    add("--prefill", type=int, default=1, help="prefill pods; default 1")
    add("--decode", type=int, default=1, help="decode pods; default 1")
    add(
        "--unified",
        action="store_true",
        help="pods that prefill and decode, as many as --decode; no hand-overs",
    )
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default cpu")
    add("--tp", type=int, default=1, help="ranks (GPUs) of each pod; default 1")
    add(
        "--kv-cache-dtype", choices=["auto", "fp8", "fp8_e4m3"], default="auto",
        help="fp8 keeps keys and values in eight bits; default: as the model's",
    )  # fmt: skip
    add("--pages", type=int, default=0, help="pages in each pod's pool; default: by the memory that is free")
    add(
        "--local-below", type=int, default=8,
        help="prompts with fewer new tokens are computed by the decode pod itself; default 8",
    )  # fmt: skip
    add("--policy", default="cost", help="how pods are chosen: cost, prefix, least-loaded, round-robin")
    add(
        "--handoffs", choices=["always", "cost"],
        help="always, or when they save time; default: always on a CPU, where it is about seeing them",
    )  # fmt: skip
    add("--redis-url", default="", help="default: a Redis of its own, gone when this ends")
    add("--host", default="127.0.0.1", help="where the router listens; default 127.0.0.1")
    add("--port", type=int, default=8000, help="default 8000")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info", help="default info")
    return made
