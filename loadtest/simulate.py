"""Placement policies against each other, on a simulated fleet in virtual time.

    python loadtest/simulate.py                                   every trace, every policy, 12 + 20 pods
    python loadtest/simulate.py --traces chat-bursty --policies cost,prefix --seconds 60 --seed 3
    python loadtest/simulate.py --prefill 90 --decode 150 --seconds 12

Prints a Markdown table for each trace. `cost` must find 95 % of the tokens that an oracle would, one that
sees every pod's cache as it is ("at hand"), and have a lower p99 TTFT than each other policy; ends with 1
where it does not. "Repeated" is what one endless cache for all would have found. One core, no GPU, no Redis.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(root / part) for part in (".", "services", "shared")]

from loadtest.simulator import POLICIES, TRACES, FleetShape, Summary, simulate, table
from loadtest.simulator.report import quantile
from loadtest.simulator.timing import Timing
from loadtest.simulator.traces import make

LEAST_SHARE = 0.95
RIVALS = ("prefix", "least-loaded", "round-robin")


def verdict(rows: dict[str, Summary]) -> list[str]:
    """What `cost` failed at."""
    cost = rows.get("cost")
    if cost is None:
        return []
    failed = []
    if cost.found_share < LEAST_SHARE:
        failed.append(f"cached tokens: {cost.found_share:.1%} of all at hand")
    rivals = [rows[name] for name in RIVALS if name in rows]
    return failed + [
        f"p99 TTFT: {one.policy} is not later" for one in rivals if one.ttft_p99_s <= cost.ttft_p99_s
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", default=",".join(TRACES))
    parser.add_argument("--policies", default=":".join(POLICIES), help="parted by colons")
    parser.add_argument("--prefill", type=int, default=FleetShape().prefill)
    parser.add_argument("--decode", type=int, default=FleetShape().decode)
    parser.add_argument("--slow", type=int, default=0, help="pods that take three times as long")
    parser.add_argument(
        "--lying",
        type=float,
        default=1.0,
        help="the first prefill pod takes so many times longer than it claims",
    )
    parser.add_argument("--unwatched", action="store_true", help="routers believe what pods claim")
    parser.add_argument("--seconds", type=float, default=12.0, help="in which sessions begin")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    gc.disable()  # nothing here is freed by it, and it takes a third of the time
    shape = FleetShape(
        prefill=options.prefill,
        decode=options.decode,
        slow=options.slow,
        lying=options.lying,
        watched=not options.unwatched,
    )
    failures = 0
    for name in options.traces.split(","):
        trace = make(name, shape.pods, options.seconds, options.seed)
        rows = {one: simulate(trace, one, shape, seed=options.seed) for one in options.policies.split(":")}
        failed = verdict(rows)
        failures += len(failed)
        alone_s = quantile([Timing().prefill_s([span]) for span in trace.spans()], 0.99)
        wall_s = sum(one.wall_s for one in rows.values())
        sys.stdout.write(
            f"\n**{name}**, {trace.requests:,} requests, {trace.prompt_tokens / 1e6:.1f} M prompt tokens,"
            f" {wall_s:.0f} s of CPU time; computing alone, nobody waiting and all repeats cached: p99"
            f" {alone_s * 1000:.0f} ms\n\n{table(list(rows.values()))}\n"
            f"{'; '.join(failed) or 'met'}\n"
        )
        sys.stdout.flush()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
