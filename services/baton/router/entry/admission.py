"""The queue before the pods: so many requests under way, so many waiting, the rest refused at once.

Who goes next: the key of the lowest priority number; of those the one with the fewest requests under
way, then the one that was served longest ago, so that one that floods the queue waits behind its own;
within a key the request of the lowest priority, then the oldest.
Deadlines are the caller's: a wait that is cancelled leaves no trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from itertools import count

from baton.core.clock import Clock
from baton.core.errors import QueueFull
from baton.router.entry.keys import Key
from baton.router.meters import Meters
from baton.router.settings import AdmissionSettings

_Waiter = tuple[int, int, asyncio.Future[None]]


class Admission:
    def __init__(self, settings: AdmissionSettings, clock: Clock, meters: Meters) -> None:
        self._settings = settings
        self._clock = clock
        self._meters = meters
        self._order = count()
        self._queues: dict[Key, list[_Waiter]] = {}
        self._by_key: dict[str, int] = {}
        self._served: dict[str, int] = {}
        """When each key was let in last, as a place in the order of all."""
        self.running = 0
        self.waiting = 0

    def __repr__(self) -> str:
        return f"Admission({self.running} running, {self.waiting} waiting)"

    def check(self) -> None:
        """Raise what `enter` would, before anything is done for a request."""
        if self.running >= self._settings.max_running and self.waiting >= self._settings.max_queued:
            raise QueueFull(f"{self.waiting} requests wait, the most there may be")

    @asynccontextmanager
    async def enter(self, key: Key, priority: int) -> AsyncIterator[None]:
        """One request under way, after those before it."""
        if self.running < self._settings.max_running:
            self._take(key)
        else:
            self.check()
            await self._wait(key, priority)
        try:
            yield
        finally:
            self._release(key)

    async def _wait(self, key: Key, priority: int) -> None:
        began = self._clock.now()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (priority, next(self._order), turn)
        heappush(self._queues.setdefault(key, []), waiter)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(key)  # its turn had just come
            elif waiter in self._queues.get(key, ()):
                self._forget(key, waiter)
            raise
        finally:
            self._meters.queue.observe(self._clock.now() - began)

    def _forget(self, key: Key, waiter: _Waiter) -> None:
        queue = self._queues[key]
        queue.remove(waiter)
        heapify(queue)
        self.waiting -= 1
        if not queue:
            del self._queues[key]

    def _take(self, key: Key) -> None:
        self.running += 1
        self._served[key.name] = next(self._order)
        self._by_key[key.name] = self._by_key.get(key.name, 0) + 1

    def _release(self, key: Key) -> None:
        self.running -= 1
        left = self._by_key[key.name] - 1
        if left:
            self._by_key[key.name] = left
        else:
            del self._by_key[key.name]
        self._next()

    def _next(self) -> None:
        while self.waiting and self.running < self._settings.max_running:
            key = min(
                self._queues,
                key=lambda one: (
                    one.priority,
                    self._by_key.get(one.name, 0),
                    self._served.get(one.name, -1),
                    self._queues[one][0][1],
                ),
            )
            _, _, turn = heappop(self._queues[key])
            if not self._queues[key]:
                del self._queues[key]
            self.waiting -= 1
            if not turn.cancelled():
                self._take(key)
                turn.set_result(None)
