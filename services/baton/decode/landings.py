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

        self._shown: dict[str, set[tuple[str, str, str]]] = {}
        """Worker → labels under which its paths are shown."""

    def met(self, pod: str, path: Path) -> None:
        """`pod`: how the other pod is called; empty where that is not known."""
        peer = f"{pod or path.worker}/{path.rank}"
        for direction, gb_s in (("write", path.write_gb_s), ("read", path.read_gb_s)):
            labels = (peer, path.transport, direction)
            self._bandwidth.labels(*labels).set(gb_s * 1e9)
            self._shown.setdefault(path.worker, set()).add(labels)

    def parted(self, worker: str) -> None:
        """That worker's paths are no more."""
        for labels in self._shown.pop(worker, ()):
            self._bandwidth.remove(*labels)
