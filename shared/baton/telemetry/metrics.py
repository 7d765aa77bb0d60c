"""One process's metrics: named and checked here, kept by prometheus_client, rendered for `/metrics`.

Each process that serves HTTP makes one `Metrics` in its `__main__` and hands it on; no global
registry exists. Engine ranks have none: their figures travel to the front process in its messages,
which then sets gauges and adds to counters, so prometheus_client's multi-process files are not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from baton.core.version import version
from baton.telemetry.tally import Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What an HTTP reply that carries `render()` says it is."""

NAME = re.compile(r"baton(_[a-z0-9]+)+")
FAMILIAR = re.compile(r"vllm:[a-z0-9_]+")
"""What dashboards, autoscalers and endpoint pickers know already."""
UNITS = (
    "_seconds",
    "_bytes",
    "_tokens",
    "_pages",
    "_sequences",
    "_requests",
    "_gigabytes_per_second",
    "_share",
)
"""What a histogram's name may end in."""
UNBOUNDED = frozenset({"attempt", "client", "id", "identity", "prompt", "request", "session", "user"})
"""Labels with a value per request: each value would be a time series for ever."""


class Metrics:
    """The metrics of one process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        built = self.gauge("baton_build_info", "Always 1; the label says which release runs.", ("version",))
        built.labels(version()).set(1)

    def counter(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
        """A total that only grows; its name ends in `_total`."""
        _check(name, labels, ("_total",))
        return Counter(name, meaning, labels, registry=self._registry)

    def gauge(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """A value as of now."""
        _check(name, labels, ("",))
        return Gauge(name, meaning, labels, registry=self._registry)

    def familiar(self, name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge under the name by which another server's users query the same figure: `vllm:…`."""
        assert FAMILIAR.fullmatch(name), f"{name}: is no name of another server's"
        return Gauge(name, meaning, labels, registry=self._registry)

    def histogram(
        self, name: str, meaning: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Histogram:
        """How values are spread; its name ends in its unit. Bounds come from `baton.telemetry.buckets`."""
        _check(name, labels, UNITS)
        return Histogram(name, meaning, labels, registry=self._registry, buckets=buckets)

    def tally(self, name: str, meaning: str, buckets: Sequence[float]) -> Tally:
        """A histogram that one thread adds to many thousand times a second."""
        _check(name, (), UNITS)
        made = Tally(name, meaning, buckets)
        self._registry.register(made)
        return made

    def render(self) -> bytes:
        """The Prometheus text format, to be sent as CONTENT_TYPE. A few milliseconds; no I/O but /proc."""
        return generate_latest(_WithoutBirths(self._registry))


class _WithoutBirths(Collector):
    """Leaves out the `_created` series, which double a histogram's cost and which nobody reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


def _check(name: str, labels: Sequence[str], ends: Sequence[str]) -> None:
    """A metric's name and labels are written by us, so a wrong one is a bug, not anybody's mistake."""
    assert NAME.fullmatch(name), f"{name}: metrics are called baton_…, in lower case"
    assert name.endswith(tuple(ends)), f"{name}: must end in one of {', '.join(ends)}"
    unbounded = UNBOUNDED.intersection(labels)
    assert not unbounded, f"{name}: label {', '.join(sorted(unbounded))} has no bound; log it instead"
