"""How the router's figures go over time: one point a second, the last five minutes of them.

A point is the difference of two readings of counters and histograms, so it costs the request path nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric

KEPT = 300
SPAN = 10
"""Seconds that percentiles are of: a second alone seldom has enough requests for any."""


class Collects(Protocol):
    """A metric of prometheus_client's, or a `baton.telemetry.Tally`."""

    def collect(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """What the meters said at one moment."""

    at: float
    requests: float
    prompt: float
    cached: float
    generated: float
    ttft: tuple[tuple[float, float], ...]
    """(upper bound, observations up to it), in seconds."""
    itl: tuple[tuple[float, float], ...]


class Course:
    def __init__(self) -> None:
        self.points: deque[dict[str, float | None]] = deque(maxlen=KEPT)
        self._readings: deque[Reading] = deque(maxlen=SPAN + 1)

    def read(self, now: Reading) -> dict[str, float | None] | None:
        """Take a reading; the point that follows from it, None for the first."""
        self._readings.append(now)
        if len(self._readings) < 2:
            return None
        last, first = self._readings[-2], self._readings[0]
        spent = max(now.at - last.at, 1e-3)
        prompt = now.prompt - first.prompt
        point = {
            "requests_s": round((now.requests - last.requests) / spent, 2),
            "tokens_s": round((now.generated - last.generated) / spent, 1),
            "hit": round((now.cached - first.cached) / prompt, 4) if prompt > 0 else None,
            "ttft_p50": _quantile(first.ttft, now.ttft, 0.5),
            "ttft_p99": _quantile(first.ttft, now.ttft, 0.99),
            "itl_p50": _quantile(first.itl, now.itl, 0.5),
            "itl_p99": _quantile(first.itl, now.itl, 0.99),
        }
        self.points.append(point)
        return point


def total(counter: Collects) -> float:
    """Of every series of a counter together."""
    return sum(
        float(sample.value)
        for family in counter.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def buckets(histogram: Collects) -> tuple[tuple[float, float], ...]:
    families: Sequence[Metric] = list(histogram.collect())
    return tuple(
        (float(sample.labels["le"]), float(sample.value))
        for family in families
        for sample in family.samples
        if sample.name.endswith("_bucket")
    )


def _quantile(
    before: Sequence[tuple[float, float]], now: Sequence[tuple[float, float]], share: float
) -> float | None:
    """Of what was observed in between, in milliseconds; None when nothing was."""
    counts = [(bound, count - old) for (bound, count), (_, old) in zip(now, before, strict=True)]
    observed = counts[-1][1] if counts else 0.0
    if observed <= 0:
        return None
    wanted, below, passed = share * observed, 0.0, 0.0
    for bound, cumulative in counts:
        if cumulative >= wanted:
            if bound == float("inf"):
                break
            inside = cumulative - passed
            return round(1000 * (below + (bound - below) * (wanted - passed) / inside), 2)
        below, passed = bound, cumulative
    return round(1000 * below, 2)
