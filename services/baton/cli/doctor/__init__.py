"""`baton doctor`: is this machine fit to run Baton, and do pods reach each other as fast as they should?

    baton doctor                                  this machine, and a transfer between two processes on it
    baton doctor --url http://router:8000         also every pod that the router knows
    baton doctor --pods decode-0:8000,prefill-0:8001

A path between two pods that is broken gives no error: it falls back to TCP in silence and is up to 500
times slower. Each pair of pods measures its path when it first meets; this reads what they found, measures
one path itself, and says what to change. The exit status is 1 when something is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from baton.cli.doctor.finding import Finding, Grade
from baton.cli.status import parser, pods

__all__ = ["main"]

STYLES = {Grade.FINE: "\033[32m", Grade.NOTE: "\033[2m", Grade.WRONG: "\033[1;31m"}
PLAIN = "\033[0m"


def main(arguments: Sequence[str]) -> int:
    made = parser("baton doctor", __doc__ or "")
    made.set_defaults(url="")
    made.add_argument("--no-transfer", action="store_true", help="leave out the transfer on this machine")
    args = made.parse_args(arguments)
    paint = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    wrong = 0
    for finding in _findings(args.url, pods(args.pods), not args.no_transfer, args.api_key):
        print(_line(finding, paint), flush=True)
        wrong += finding.grade is Grade.WRONG
    print(f"\n{wrong} {'thing is' if wrong == 1 else 'things are'} wrong" if wrong else "\nnothing is wrong")
    return 1 if wrong else 0


def _findings(url: str, named: Sequence[str], transfer: bool, key: str) -> Iterator[Finding]:
    """One by one, as they are found: some take seconds."""
    from baton.cli.doctor.machine import examine

    yield from examine()
    if transfer:
        from baton.cli.doctor.transfer import try_transfers

        yield from try_transfers()
    if url or named:
        from baton.cli.doctor.cluster import examine_pods
        from baton.cli.fleet.read import held_key, look

        yield from examine_pods(look(url, named, key or held_key()))


def _line(finding: Finding, paint: bool) -> str:
    mark = f"{finding.grade.value:<5}"
    mark = f"{STYLES[finding.grade]}{mark}{PLAIN}" if paint else mark
    advice = f"\n{'':6}→ {finding.advice}" if finding.advice else ""
    return f"{mark} {finding.what}: {finding.seen}{advice}"
