"""A worker without an engine, and what tests do to a Redis server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from baton.core.clock import SystemClock
from baton.state import EmbeddedRedis, EventWriter, LeaseKeeper, Link, StateSettings, WorkerLease

RETURN_S = 5.0
"""Within this time of Redis's return everything must be right again."""


def lease(id: str = "w1", incarnation: str = "inc-1", **fields: Any) -> WorkerLease:
    facts: dict[str, Any] = {
        "role": "decode",
        "http": f"http://{id}:8000",
        "page_size": 16,
        "pages": 1000,
        "model": "tiny",
        "model_fingerprint": "weights",
        "layout_fingerprint": "layout",
    }
    return WorkerLease(id=id, incarnation=incarnation, **{**facts, **fields})


def identities(count: int) -> list[bytes]:
    return [os.urandom(16) for _ in range(count)]


async def eventually(fact: Callable[[], bool], within_s: float = RETURN_S) -> float:
    """Seconds until it held."""
    start = time.monotonic()
    while not fact():
        assert time.monotonic() - start < within_s, "did not come about in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


async def always(fact: Callable[[], bool], for_s: float) -> None:
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        assert fact()
        await asyncio.sleep(0.01)


class HastyClock(SystemClock):
    """The machine's clock, ahead by as much as the test says."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


def link_to(redis: EmbeddedRedis, **fields: Any) -> Link:
    return Link(StateSettings(url=redis.url, **fields))


def each_at_once(story: Callable[[str], Coroutine[None, None, None]], whats: list[str]) -> None:
    """One story per thing that may happen, each with a server of its own, in the time of the longest."""

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for what in whats:
                group.create_task(story(what), name=what)

    asyncio.run(all_of_them())


@asynccontextmanager
async def linked(*options: str) -> AsyncIterator[tuple[EmbeddedRedis, Link]]:
    """A server of one's own, and a link to it."""
    # A server that looks up a hundred times a second ends within 10 ms of being told.
    async with EmbeddedRedis("--hz", "100", *options) as redis, link_to(redis) as link:
        yield redis, link


@contextmanager
def stopped(redis: EmbeddedRedis) -> Iterator[None]:
    """The server's process stands still, its sockets open."""
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(redis.pid, signal.SIGCONT)


class Worker:
    """Holds pages and a lease, as a worker's front process does. `crash` leaves as a killed pod would."""

    def __init__(
        self,
        link: Link,
        id: str = "w1",
        incarnation: str = "inc-1",
        *,
        heartbeat_s: float = 0.1,
        expiry_s: float = 0.8,
        check_s: float = 0.3,
        **writing: Any,
    ) -> None:
        self.held: dict[bytes, None] = {}
        self.writer = EventWriter(link, id, incarnation, self._snapshot, check_s=check_s, **writing)
        self.keeper = LeaseKeeper(
            link,
            lease(id, incarnation),
            events=lambda: self.writer.sequence,
            heartbeat_s=heartbeat_s,
            expiry_s=expiry_s,
        )
        self._stack = AsyncExitStack()

    async def _snapshot(self) -> list[bytes]:
        return list(self.held)

    def store(self, pages: list[bytes]) -> list[bytes]:
        self.change([], pages)
        return pages

    def change(self, evicted: list[bytes], stored: list[bytes]) -> None:
        for page in evicted:
            del self.held[page]
        self.held |= dict.fromkeys(stored)
        self.writer.append(evicted, stored)

    async def __aenter__(self) -> Worker:
        await self._stack.enter_async_context(self.writer)
        await self._stack.enter_async_context(self.keeper)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def crash(self) -> None:
        self._stack.pop_all()
        await self.keeper._rounds.close()
        await self.writer._rounds.close()
