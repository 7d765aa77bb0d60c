"""Who watches the page, and what they are told: a snapshot a second, placements and hand-overs as they come.

The feed reads what the router keeps anyway; nothing on a request's way calls it. Pods are asked for their
hand-overs only while somebody watches. A watcher that does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import msgspec

from baton.core.clock import Clock
from baton.router.page import frames
from baton.router.page.course import Course, Reading
from baton.router.page.frames import Frame
from baton.router.relay.trail import Placement
from baton.state import Fleet

log = logging.getLogger(__name__)

SNAPSHOT_S = 1.0
LOOK_S = 0.2
"""How often new placements and hand-overs are looked for, while somebody watches."""
KEPT_HANDOFFS = 50
SHOWN_PLACEMENTS = 50
LONGEST_QUEUE = 512
"""Frames that may wait for one watcher."""
MOST_WATCHERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the feed looks. None of it waits, but for `handoffs`."""

    fleet: Callable[[], Fleet]
    shunned: Callable[[], frozenset[str]]
    placements: Callable[[], tuple[Placement, ...]]
    """The last ones, oldest first."""
    reading: Callable[[], Reading]
    facts: Callable[[], Frame]
    """Of the router: model, policy, problem, running, queued."""
    handoffs: Callable[[], Awaitable[list[Frame]]]
    """What has landed since it was asked last, at any pod."""


class Feed:
    """`run` it for as long as the router runs; `watch` it once for each page that is open."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources
        self._clock = clock
        self._course = Course()
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._handoffs: deque[Frame] = deque(maxlen=KEPT_HANDOFFS)
        self._seen: dict[tuple[str, int], bool] = {}
        """Placement → whether its first token was told too."""
        self._watched = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Feed: {len(self._watchers)} watchers>"

    @property
    def full(self) -> bool:
        return len(self._watchers) >= MOST_WATCHERS

    async def watch(self) -> AsyncIterator[bytes]:
        """Server-sent events for one page, from now until it leaves."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(LONGEST_QUEUE)
        self._look()  # what was placed before now belongs to the hello, once
        queue.put_nowait(_event("hello", self.hello()))
        self._watchers.add(queue)
        self._watched.set()
        try:
            while queue in self._watchers or not queue.empty():
                yield await queue.get()
        finally:
            self._watchers.discard(queue)
            if not self._watchers:
                self._watched.clear()

    def hello(self) -> Frame:
        """What a page that has just opened shows at once."""
        now = self._clock.now()
        last = self._sources.placements()[-SHOWN_PLACEMENTS:]
        return {
            "points": list(self._course.points),
            "placements": [frames.placement(one, now) for one in last],
            "handoffs": [{**one, "ago_s": round(now - one["at"], 3)} for one in self._handoffs],
        }

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._each_second())
                group.create_task(self._while_watched())
        finally:
            self.close()

    def close(self) -> None:
        """Let every watcher go: pages ask again, another router perhaps."""
        for queue in self._watchers:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(b": the router is leaving\n\n")
        self._watchers = set()

    async def _each_second(self) -> None:
        while True:
            point = self._course.read(self._sources.reading())
            if point is not None and self._watchers:
                self._tell("snapshot", self.snapshot(point))
            await self._clock.sleep(SNAPSHOT_S)

    def snapshot(self, point: Frame) -> Frame:
        pods = frames.pods(self._sources.fleet(), self._sources.shunned())
        return {"router": self._sources.facts(), "pods": pods, "point": point}

    async def _while_watched(self) -> None:
        while True:
            await self._watched.wait()
            for name, frame in self._look():
                self._tell(name, frame)
            await self._landed()
            await self._clock.sleep(LOOK_S)

    async def _landed(self) -> None:
        found: list[Frame] = []
        with contextlib.suppress(Exception):
            found = await self._sources.handoffs()
        for one in found:
            self._handoffs.append(one)
            self._tell("handoff", {**one, "ago_s": round(self._clock.now() - one["at"], 3)})

    def _look(self) -> list[tuple[str, Frame]]:
        """What is new of placements, in their order."""
        now, told, kept = self._clock.now(), [], {}
        for one in self._sources.placements():
            key, known = (one.request, one.attempt), one.ttft_s is not None
            before = self._seen.get(key)
            if before is None:
                told.append(("placement", frames.placement(one, now)))
            elif known and not before:
                told.append(("ended", frames.ended(one)))
            kept[key] = known
        self._seen = kept
        return told

    def _tell(self, name: str, frame: Frame) -> None:
        data = _event(name, frame)
        for queue in tuple(self._watchers):
            try:
                queue.put_nowait(data)
            except asyncio.QueueFull:
                log.info("a page that does not read was let go")
                self._watchers.discard(queue)


def _event(name: str, frame: Frame) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(frame))
