"""What a decode pod measures of its hand-overs, and the last of them one by one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from baton.protocol.engine import Load, Path
from baton.telemetry import Metrics, buckets

KEPT = 64
"""Landings that are remembered."""


@dataclass(frozen=True, slots=True)
class Landing:
    """One hand-over, when its last page has come."""

    request: str
    prefill: str
    """The pod that computed it; its worker's name where that is not known."""
    tokens: int
    bytes: int
    seconds: float
    """That its pages were on their way, from pool to pool."""
    waited: float
    """Seconds from asking the prefill pod to the last page's landing; the computing is in it."""


class RecentLandings:
    """For whoever wants to see hand-overs as they happen (`GET /handoffs`): asks for those after the last it
    has seen."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: deque[tuple[int, float, Landing]] = deque(maxlen=KEPT)
        self._last = 0

    def add(self, landing: Landing) -> None:
        self._last += 1
        self._kept.append((self._last, self._now(), landing))

    def shown(self, after: int) -> dict[str, object]:
        now = self._now()
        landed = [
            {
                "request": one.request, "prefill": one.prefill, "tokens": one.tokens, "bytes": one.bytes,
                "ms": round(one.seconds * 1000, 3), "waited_ms": round(one.waited * 1000, 3),
                "age_s": round(now - at, 3),
            }
            for number, at, one in self._kept
            if number > after
        ]  # fmt: skip
        return {"last": self._last, "landed": landed}


class HandoffMeters:
    def __init__(
        self,
        metrics: Metrics,
        inflight: Callable[[], int],
        load: Callable[[], Load | None],
        local_below: Callable[[], int] = lambda: 0,
    ) -> None:
        self.seconds = metrics.histogram(
            "baton_handoff_seconds",
            "That a prompt's pages were on their way from pool to pool, as their writer measured it.",
            buckets.TRANSFER_SECONDS,
        )
        self.waited = metrics.histogram(
            "baton_handoff_wait_seconds",
            "From asking a prefill pod to the last page's landing, its queue and its computing included.",
            buckets.REQUEST_SECONDS,
        )
        self.bytes = metrics.counter("baton_handoff_bytes_total", "Bytes of pages that have landed here.")
        self.recent = RecentLandings()
        self.failures = metrics.counter(
            "baton_handoff_failures_total", "Attempts that came to nothing.", ("reason",)
        )
        metrics.gauge("baton_handoff_inflight", "Attempts whose end is not known.").set_function(inflight)
        metrics.gauge(
            "baton_local_below_tokens",
            "Uncached prompt tokens below which this pod computes a prompt itself.",
        ).set_function(local_below)
        fenced = metrics.gauge("baton_fenced_pages", "Pages that a lost writer might still write.")
        fenced.set_function(lambda: found.pages_fenced if (found := load()) else 0)
        self._bandwidth = metrics.gauge(
            "baton_peer_bandwidth_bytes_per_second",
            "What the path to a prefill pod's rank gave when they met.",
            ("peer", "transport", "direction"),
        )
        self._sound = metrics.gauge(
            "baton_peer_path_ok",
            "1 when the path to a prefill pod's rank gave what the hardware allows, else 0.",
            ("peer",),
        )
        self._shown: dict[str, set[tuple[str, str, str]]] = {}
        """Worker → labels under which its paths are shown."""

    def met(self, pod: str, path: Path) -> None:
        """`pod`: how the other pod is called; empty where that is not known."""
        peer = f"{pod or path.worker}/{path.rank}"
        self._sound.labels(peer).set(path.ok)
        for direction, gb_s in (("write", path.write_gb_s), ("read", path.read_gb_s)):
            labels = (peer, path.transport, direction)
            self._bandwidth.labels(*labels).set(gb_s * 1e9)
            self._shown.setdefault(path.worker, set()).add(labels)

    def parted(self, worker: str) -> None:
        """That worker's paths are no more."""
        shown = self._shown.pop(worker, set())
        for labels in shown:
            self._bandwidth.remove(*labels)
        for peer in {labels[0] for labels in shown}:
            self._sound.remove(peer)

    def landed(self, landing: Landing) -> None:
        self.seconds.observe(landing.seconds)
        self.waited.observe(landing.waited)
        self.bytes.inc(landing.bytes)
        self.recent.add(landing)
