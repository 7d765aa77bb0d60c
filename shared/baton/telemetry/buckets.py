"""Histogram bounds, shared so that the same kind of figure is comparable between services.

About twenty bounds each: every bound is one more time series per label set. Growth by 1.5 to 2.5
keeps an interpolated percentile within some tens of percent of the truth over the whole range.
"""

from __future__ import annotations

from typing import Final

Buckets = tuple[float, ...]

REQUEST_SECONDS: Final[Buckets] = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0),
)
"""Time to the first token, time in a queue, a whole request: 5 ms to ten minutes."""

STEP_SECONDS: Final[Buckets] = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
)
"""One engine step, the gap between two tokens: 0.5 ms to 2.5 s."""

TRANSFER_SECONDS: Final[Buckets] = (
    *(0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0),
)
"""Pages on their way between pods: 50 µs to 10 s."""

HOST_SECONDS: Final[Buckets] = (
    *(0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
    *(0.05, 0.1, 0.5, 1.0),
)
"""Work of the host that should be short: placing, scheduling, tokenizing: 10 µs to 1 s."""

TOKENS: Final[Buckets] = tuple(float(2**power) for power in range(18))
"""Tokens of a prompt or an output: 1 to 131072."""

BATCH: Final[Buckets] = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
"""Sequences in a step."""

BYTES: Final[Buckets] = tuple(float(4**power) for power in range(6, 18))
"""Bytes of a transfer: 4 KiB to 16 GiB."""

GIGABYTES_PER_SECOND: Final[Buckets] = (
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400),
)
"""What a path between two pods yields; half a GB/s is the silent fall-back to TCP."""

SHARE: Final[Buckets] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""A part of a whole: cached tokens of a prompt, filled places of a batch."""
