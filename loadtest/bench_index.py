"""What the prefix index costs: memory, changes per second, and the time of a lookup.

    python loadtest/bench_index.py [--pages 1000000] [--workers 32] [--prompt 2000]

Runs on one core for a few seconds and counts CPU time; needs neither Redis nor a GPU. Prints the figure, the
target and whether it was met; ends with 1 when one was not.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from baton.state import PrefixIndex

FRAME = 256
"""Identities per frame, about what an engine reports in a step or a few."""
MOST_MB, FEWEST_PER_S, LONGEST_MS = 300, 200_000, 1.0


def resident_mb() -> float:
    """Memory that this process has in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def fill(index: PrefixIndex, pages: int, workers: int, chance: random.Random) -> float:
    """Identities stored per second, frame by frame, workers in turn."""
    spent = 0.0
    for at in range(0, pages, FRAME):
        stored = chance.randbytes(16 * FRAME)
        start = time.process_time()
        index.apply(f"worker-{at // FRAME % workers}", b"", stored)
        spent += time.process_time() - start
    return pages / spent


def churn(index: PrefixIndex, workers: int, rounds: int, chance: random.Random) -> float:
    """Changes per second when a full cache evicts as many pages as it stores."""
    spent, last = 0.0, [chance.randbytes(16 * FRAME) for _ in range(workers)]
    for worker, stored in enumerate(last):
        index.apply(f"worker-{worker}", b"", stored)
    for at in range(rounds):
        worker, stored = at % workers, chance.randbytes(16 * FRAME)
        start = time.process_time()
        index.apply(f"worker-{worker}", last[worker], stored)
        spent += time.process_time() - start
        last[worker] = stored
    return 2 * FRAME * rounds / spent


def quartiles(call: Callable[[], object], times: int = 400) -> tuple[float, float]:
    """Milliseconds: median, and what 99 of 100 calls stay within."""
    took = []
    for _ in range(times):
        start = time.process_time()
        call()
        took.append(time.process_time() - start)
    took.sort()
    return 1000 * took[times // 2], 1000 * took[times * 99 // 100]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pages", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=2000, help="pages of the prompt that is looked up")
    options = parser.parse_args()
    chance, index = random.Random(0), PrefixIndex()
    before = resident_mb()
    stored_per_s = fill(index, options.pages, options.workers, chance)
    held_mb = resident_mb() - before
    changed_per_s = churn(index, options.workers, 2000, chance)

    prompt = [chance.randbytes(16) for _ in range(options.prompt)]
    for worker in range(options.workers):
        depth = options.prompt * worker // max(1, options.workers - 1)
        index.apply(f"worker-{worker}", b"", b"".join(prompt[:depth]))
    found = sorted(index.lookup(prompt).values())
    assert (found[0], found[-1]) == (0 if options.workers > 1 else options.prompt, options.prompt)
    median_ms, p99_ms = quartiles(lambda: index.lookup(prompt))

    start = time.process_time()
    index.drop("worker-0")
    drop_ms = 1000 * (time.process_time() - start)
    start = time.process_time()
    gc.collect()
    collect_ms = 1000 * (time.process_time() - start)
    met = held_mb < MOST_MB and min(stored_per_s, changed_per_s) >= FEWEST_PER_S and median_ms < LONGEST_MS
    sys.stdout.write(
        f"{options.pages:,} pages over {options.workers} workers\n"
        f"memory   {held_mb:,.0f} MB (at most {MOST_MB})\n"
        f"apply    {stored_per_s:,.0f} stored a second, {changed_per_s:,.0f} changes a second of a full cache"
        f" (at least {FEWEST_PER_S:,})\n"
        f"lookup   {median_ms:.3f} ms median, {p99_ms:.3f} ms p99, {options.prompt:,} pages,"
        f" every worker holding another share (below {LONGEST_MS} ms)\n"
        f"besides  {drop_ms:.2f} ms to forget a worker, {collect_ms:.0f} ms for a full garbage collection\n"
        f"{'all met' if met else 'NOT MET'}\n"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
