"""What a decode pod measures of its hand-overs."""

from __future__ import annotations

from collections.abc import Callable

from baton.protocol.engine import Load, Path
from baton.telemetry import Metrics, buckets


class HandoffMeters:
    def __init__(
        self, metrics: Metrics, inflight: Callable[[], int], load: Callable[[], Load | None]
    ) -> None:
        self.seconds = metrics.histogram(
            "baton_handoff_seconds",
            "From asking a prefill pod to the last page's landing.",
            buckets.REQUEST_SECONDS,
        )
        self.bytes = metrics.counter("baton_handoff_bytes_total", "Bytes of pages that have landed here.")
        self.failures = metrics.counter(
            "baton_handoff_failures_total", "Attempts that came to nothing.", ("reason",)
        )
        metrics.gauge("baton_handoff_inflight", "Attempts whose end is not known.").set_function(inflight)
        fenced = metrics.gauge("baton_fenced_pages", "Pages that a lost writer might still write.")
        fenced.set_function(lambda: found.pages_fenced if (found := load()) else 0)
        self._bandwidth = metrics.gauge(
            "baton_peer_bandwidth_bytes_per_second",
            "What the path to a prefill pod's rank gave when they met.",
            ("peer", "transport", "direction"),
        )

    def met(self, path: Path) -> None:
        peer = f"{path.worker}/{path.rank}"
        self._bandwidth.labels(peer, path.transport, "write").set(path.write_gb_s * 1e9)
        self._bandwidth.labels(peer, path.transport, "read").set(path.read_gb_s * 1e9)
