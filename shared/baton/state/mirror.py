"""What a router knows of the cluster, kept up to date from Redis and read from memory.

A router's `__main__` holds one open; placement reads `fleet`, `index` and `loads` and never waits. Nothing
here decides anything.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from baton.state.board import BoardHealth, LeaseBoard
from baton.state.fed import FedReader
from baton.state.fleet import Fleet, What
from baton.state.index import PrefixIndex
from baton.state.link import Link, LinkHealth
from baton.state.loads import LoadBoard
from baton.state.reader import EventReader, ReaderHealth

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MirrorHealth:
    """For metrics and the detail of readiness. A router is ready once `board.read` is true, and stays so
    while Redis is away: it serves on what it knows."""

    link: LinkHealth
    board: BoardHealth
    events: ReaderHealth
    routers: int
    """Other routers that are heard of."""
    lag: int
    """Entries written that were not read yet, over all workers, as far as their last beats tell."""


class FleetMirror:
    """Leases, prefix index and loads of one router."""

    def __init__(self, link: Link, router: str, feed: int = 0) -> None:
        """`feed`: port of this host's index feed; without one, events are read from Redis."""
        self.index = PrefixIndex()
        self.board = LeaseBoard(link)
        self.reader: EventReader | FedReader = (
            FedReader(feed, self.index, link.clock) if feed else EventReader(link, self.index)
        )
        self.loads = LoadBoard(link, router)
        self._link = link
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"FleetMirror({self.fleet!r}, {self.index!r})"

    @property
    def fleet(self) -> Fleet:
        return self.board.fleet

    @property
    def health(self) -> MirrorHealth:
        progress = self.reader.progress
        lag = sum(
            max(0, lease.events - progress[id].sequence)
            for id, lease in self.fleet.workers.items()
            if id in progress and progress[id].incarnation == lease.incarnation
        )
        return MirrorHealth(self._link.health, self.board.health, self.reader.health, self.loads.routers, lag)

    async def __aenter__(self) -> Self:
        for part in (self.board, self.reader, self.loads):
            await self._stack.enter_async_context(part)
        following = asyncio.create_task(self._follow(), name="fleet mirror")

        async def end() -> None:
            following.cancel()
            await asyncio.wait([following])

        self._stack.push_async_callback(end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _follow(self) -> None:
        async for fleet, changes in self.board.watch():
            self.reader.follow((id, lease.incarnation) for id, lease in fleet.workers.items())
            for change in changes:
                log.log(
                    logging.WARNING if change.what is What.EXPIRED else logging.INFO,
                    f"a worker {change.what}",
                    extra={"worker": change.lease.id, "incarnation": change.lease.incarnation},
                )
