"""One pod's membership: its lease kept fresh, its prefix events written, its leaving said.

A service's `__main__` holds one open from ready to stopped. With Redis it keeps a `LeaseKeeper` and an
`EventWriter` going; without, it only knows the lease that `GET /lease` shows. Nothing here waits for
Redis, and nothing of it reaches the engine's steps.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import msgspec

from baton.engine.worker import Worker
from baton.membership.lease import worker_load
from baton.membership.pages import HeldPages
from baton.membership.paths import Bandwidths
from baton.protocol.engine import Pages, Path
from baton.state import EventWriter, LeaseKeeper, Link, WorkerLease, WorkerLoad
from baton.telemetry import Metrics


class Membership:
    """`async with`, once the worker is ready. `link` is None where there is no Redis."""

    def __init__(self, worker: Worker, lease: WorkerLease, link: Link | None = None) -> None:
        self._worker = worker
        self._lease = lease
        self._held = HeldPages()
        self._bandwidths = Bandwidths()
        self._stack = AsyncExitStack()
        self.link = link
        self.writer: EventWriter | None = None
        self.keeper: LeaseKeeper | None = None
        if link is not None:
            writer = EventWriter(link, lease.id, lease.incarnation, self._held.snapshot)
            self.writer = writer
            self.keeper = LeaseKeeper(link, lease, events=lambda: writer.sequence, load=self._load)

    @property
    def lease(self) -> WorkerLease:
        """As of now."""
        events = self.writer.sequence if self.writer is not None else 0
        return msgspec.structs.replace(self._lease, load=self._load(), events=events)

    def drain(self) -> None:
        """From now on the pod takes no new work; said at once."""
        self._revise(draining=True)

    def measured(self, pod: str, path: Path) -> None:
        """A path to another pod has been measured."""
        if pod:
            self._bandwidths.note(pod, path)
            self._revise(bandwidths=self._bandwidths())

    def parted(self, pod: str) -> None:
        """Another pod is gone for good."""
        self._bandwidths.forget(pod)
        self._revise(bandwidths=self._bandwidths())

    def measure(self, metrics: Metrics) -> None:
        """Show there how this pod stands with Redis, if there is one."""
        link, keeper, writer = self.link, self.keeper, self.writer
        if link is None or keeper is None or writer is None:
            return
        gauge = metrics.gauge
        reachable = gauge("baton_state_reachable", "1 while Redis answers, else 0.")
        reachable.set_function(lambda: link.health.reachable)
        renewed = gauge("baton_lease_renewed_seconds", "Since the lease was last renewed.")
        renewed.set_function(lambda: keeper.health.renewed_s)
        events = gauge(
            "baton_prefix_events", "Page identities that wait for Redis, or were dropped for want of room.",
            ("state",),
        )  # fmt: skip
        events.labels("waiting").set_function(lambda: writer.health.waiting)
        events.labels("dropped").set_function(lambda: writer.health.dropped)

    async def __aenter__(self) -> Self:
        if self.writer is not None and self.keeper is not None:
            await self._stack.enter_async_context(self.writer)
            self._worker.watch_pages(self._take)
            await self._stack.enter_async_context(self.keeper)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Withdraws the lease, and clears away what was written."""
        await self._stack.aclose()

    def _revise(self, **changes: Any) -> None:
        self._lease = msgspec.structs.replace(self._lease, **changes)
        if self.keeper is not None:
            self.keeper.revise(**changes)

    def _load(self) -> WorkerLoad:
        load = self._worker.load
        return self._lease.load if load is None else worker_load(load)

    def _take(self, pages: Pages) -> None:
        assert self.writer is not None
        self.writer.append(*self._held.take(pages))

    def __repr__(self) -> str:
        return f"<Membership of {self._lease.id}: {self.keeper or 'no Redis'}, {len(self._held)} pages held>"
