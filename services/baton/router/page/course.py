"""How the router's figures go over time: one point a second, the last five minutes of them.

Each process counts its own seconds, as differences of two readings of counters and histograms, which cost
the request path nothing. Seconds of several processes add up, and points are made of the sums. Pure but for
`Course`, which keeps the last seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric

from baton.router.siblings import Observed, Second

KEPT = 300
SPAN = 10
"""Seconds that percentiles are of: a second alone seldom has enough requests for any."""

Point = dict[str, float | None]
Buckets = tuple[tuple[float, float], ...]


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
    ttft: Buckets
    """(upper bound, observations up to it), in seconds."""
    itl: Buckets


class Course:
    """One process's."""

    def __init__(self) -> None:
        self.seconds: deque[Second] = deque(maxlen=KEPT + SPAN)
        self._last: Reading | None = None

    def read(self, number: int, now: Reading) -> Second | None:
        """Take a reading; the second of this number that ends with it, None for the first."""
        last, self._last = self._last, now
        if last is None:
            return None
        second = Second(
            number=number,
            spent=max(now.at - last.at, 1e-3),
            requests=now.requests - last.requests,
            prompt=now.prompt - last.prompt,
            cached=now.cached - last.cached,
            generated=now.generated - last.generated,
            ttft=_observed(last.ttft, now.ttft),
            itl=_observed(last.itl, now.itl),
        )
        self.seconds.append(second)
        return second


def merged(several: Sequence[Second]) -> Second:
    """One second as several processes counted it, as if it had been exactly that long."""
    asked = max(several, key=lambda one: one.prompt)  # all are told the same, whoever asks
    return Second(
        number=several[0].number,
        spent=1.0,
        requests=sum(one.requests / one.spent for one in several),
        prompt=asked.prompt,
        cached=asked.cached,
        generated=sum(one.generated / one.spent for one in several),
        ttft=_sum(one.ttft for one in several),
        itl=_sum(one.itl for one in several),
    )


def points(seconds: Sequence[Second], count: int) -> list[Point]:
    """Of the last `count` of these, which are in order and of the whole router."""
    found = []
    for place in range(max(0, len(seconds) - count), len(seconds)):
        oldest = seconds[place].number - SPAN
        found.append(
            _point([one for one in seconds[max(0, place - SPAN) : place + 1] if one.number > oldest])
        )
    return found


def _point(span: Sequence[Second]) -> Point:
    """Of the last second, with what is of the whole span."""
    prompt = sum(one.prompt for one in span)
    ttft, itl = _sum(one.ttft for one in span), _sum(one.itl for one in span)
    return {
        "requests_s": round(span[-1].requests, 2),
        "tokens_s": round(span[-1].generated, 1),
        "hit": round(sum(one.cached for one in span) / prompt, 4) if prompt > 0 else None,
        "ttft_p50": quantile(ttft, 0.5),
        "ttft_p99": quantile(ttft, 0.99),
        "itl_p50": quantile(itl, 0.5),
        "itl_p99": quantile(itl, 0.99),
    }


def total(counter: Collects) -> float:
    """Of every series of a counter together."""
    return sum(
        float(sample.value)
        for family in counter.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def buckets(histogram: Collects) -> Buckets:
    families: Sequence[Metric] = list(histogram.collect())
    return tuple(
        (float(sample.labels["le"]), float(sample.value))
        for family in families
        for sample in family.samples
        if sample.name.endswith("_bucket")
    )


def _observed(before: Buckets, now: Buckets) -> Observed:
    """What came in between; `now` and `before` have the same bounds."""
    found, below, passed = [], 0.0, 0.0
    for (bound, count), (_, old) in zip(now, before, strict=True):
        inside = count - old - passed
        if inside > 0:
            found.append((below, bound, inside))
        below, passed = bound, count - old
    return tuple(found)


def _sum(several: Iterable[Observed]) -> Observed:
    sums: dict[tuple[float, float], float] = {}
    for observed in several:
        for above, bound, count in observed:
            sums[above, bound] = sums.get((above, bound), 0.0) + count
    return tuple((above, bound, sums[above, bound]) for above, bound in sorted(sums))


def quantile(observed: Observed, share: float) -> float | None:
    """In milliseconds; None of nothing."""
    wanted = share * sum(count for _, _, count in observed)
    for above, bound, count in observed:
        if count >= wanted - 1e-9:
            return round(1000 * (above if isinf(bound) else above + (bound - above) * wanted / count), 2)
        wanted -= count
    return None
