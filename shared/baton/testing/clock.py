"""A clock that tests move by hand: nothing waits in real time, and every wait ends exactly on time.

`advance` moves time and wakes whoever is due; `run_for` does so in steps, letting woken tasks run (and
sleep again) before time goes on, so that a loop with a heartbeat gets each of its beats. Tasks and
threads may wait on the same clock.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading

SETTLE_TURNS = 50
"""How many turns of the event loop woken tasks get to reach their next wait."""


class ManualClock:
    """A `baton.core.Clock` whose time stands still until the test moves it."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._moved = threading.Condition()
        self._paused = 0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._moved:
            heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), waiting))
        await waiting

    def pause(self, seconds: float) -> None:
        with self._moved:
            due = self._now + seconds
            self._paused += 1
            try:
                self._moved.wait_for(lambda: self._now >= due)
            finally:
                self._paused -= 1

    @property
    def waiting(self) -> int:
        """Tasks and threads that wait on this clock now; cancelled ones do not count."""
        with self._moved:
            return self._paused + sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move time and wake who is due. From any thread; woken tasks run when their loop next turns."""
        self._move_to(self._now + seconds)

    async def run_for(self, seconds: float) -> None:
        """Move time from wake to wake, each task running at its own moment. On the sleepers' loop."""
        end = self._now + seconds
        await self._settle()
        while (due := self._next_due()) is not None and due <= end:
            self._move_to(due)
            await self._settle()
        self._move_to(max(end, self._now))
        await self._settle()

    def _move_to(self, moment: float) -> None:
        with self._moved:
            assert moment >= self._now, "time never goes back"
            self._now = moment
            while self._sleepers and self._sleepers[0][0] <= self._now:
                _, _, future = heapq.heappop(self._sleepers)
                future.get_loop().call_soon_threadsafe(_wake, future)
            self._moved.notify_all()

    def _next_due(self) -> float | None:
        with self._moved:
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            return self._sleepers[0][0] if self._sleepers else None

    async def _settle(self) -> None:
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"ManualClock(now={self._now:.3f}, waiting={self.waiting})"


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
