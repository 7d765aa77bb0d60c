"""Who watches the page, and what they are told: a snapshot a second, placements and hand-overs as they come.

Of all processes that share the router's port: while somebody watches at this one, it follows itself and its
siblings. A sibling that is lost is sought again, and nothing waits for it. Pods are asked for their
hand-overs only while somebody watches. A watcher that does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from baton.core.clock import Clock
from baton.core.errors import PeerLost
from baton.core.lifecycle import first_of
from baton.router.page import frames
from baton.router.page.course import KEPT, Point
from baton.router.page.frames import Frame
from baton.router.page.parts import RESULT, Part, course, latest
from baton.router.page.sight import LONGEST_QUEUE, LOOK_S
from baton.router.siblings import Begun, Ended, Message, Placed, Ticked
from baton.state import Fleet

log = logging.getLogger(__name__)

KEPT_HANDOFFS = 50
MOST_WATCHERS = 64
FIRST_S = 1.0
"""How long a page that opens waits for what all processes know; who is later is shown as it comes."""
PAUSE_S = 0.5
"""Before a process that was lost is sought again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the feed looks. None of it waits, but for `handoffs`."""

    fleet: Callable[[], Fleet]
    facts: Callable[[], Frame]
    """Of the router: model, policy, problem, version."""
    handoffs: Callable[[], Awaitable[list[Frame]]]
    """What has landed since it was asked last, at any pod."""


Follow = Callable[[], AsyncIterator[Message]]
"""What one process tells, until it ends or raises PeerLost."""


class Feed:
    """`run` it for as long as the router runs; `watch` it once for each page that is open."""

    def __init__(self, sources: Sources, processes: Mapping[int, Follow], own: int, clock: Clock) -> None:
        """`own`: which of the processes this one is: its seconds are those that snapshots come at."""
        self._sources = sources
        self._processes = processes
        self._own = own
        self._clock = clock
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._open = 0
        """Pages, those that are not told anything yet included."""
        self._watched, self._left, self._begun = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._parts: dict[int, Part] = {}
        self._shown = 0
        """The number of the second that was shown last."""
        self._handoffs: deque[Frame] = deque(maxlen=KEPT_HANDOFFS)

    def __repr__(self) -> str:
        return f"<Feed: {len(self._watchers)} watchers, {len(self._processes)} processes>"

    @property
    def full(self) -> bool:
        return self._open >= MOST_WATCHERS

    async def watch(self) -> AsyncIterator[bytes]:
        """Server-sent events for one page, from now until it leaves."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(LONGEST_QUEUE)
        self._open += 1
        self._left.clear()
        self._watched.set()
        try:
            await first_of(self._begun.wait(), self._clock.sleep(FIRST_S))
            queue.put_nowait(_event("hello", self.hello()))
            self._watchers.add(queue)
            while queue in self._watchers or not queue.empty():
                yield await queue.get()
        finally:
            self._watchers.discard(queue)
            self._open -= 1
            if not self._open:
                self._watched.clear()
                self._left.set()

    def hello(self) -> Frame:
        """What a page that has just opened shows at once."""
        now, parts = self._clock.now(), self._parts.values()
        return {
            "points": course(parts, self._shown, KEPT),
            "placements": [frames.aged(one, now) for one in latest(parts)],
            "handoffs": [frames.aged(one, now) for one in self._handoffs],
        }

    async def run(self) -> None:
        try:
            while True:
                await self._watched.wait()
                await self._while_watched()
        finally:
            self.close()

    def close(self) -> None:
        """Let every watcher go: pages ask again, another router perhaps."""
        for queue in self._watchers:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(b": the router is leaving\n\n")
        self._watchers = set()

    async def _while_watched(self) -> None:
        self._parts = {number: Part() for number in self._processes}
        self._shown = 0
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(number)) for number in self._processes]
            tasks.append(group.create_task(self._land()))
            while self._open:  # a page may have come when the last one has just left
                await self._left.wait()
            self._begun.clear()
            for task in tasks:
                task.cancel()

    async def _land(self) -> None:
        while True:
            found: list[Frame] = []
            with contextlib.suppress(Exception):
                found = await self._sources.handoffs()
            for one in found:
                self._handoffs.append(one)
                self._tell("handoff", frames.aged(one, self._clock.now()))
            await self._clock.sleep(LOOK_S)

    # ---- processes ----

    async def _follow(self, number: int) -> None:
        part = self._parts[number]
        while True:
            with contextlib.suppress(PeerLost):
                async for message in self._processes[number]():
                    self._take(number, part, message)
            part.lose()
            await self._clock.sleep(PAUSE_S)

    def _take(self, number: int, part: Part, message: Message) -> None:
        match message:
            case Placed(frame=frame):
                self._placed(part, frame)
            case Ended(frame=frame):
                if part.end(frame):
                    self._tell("ended", frame)
            case Ticked(second=second, state=state):
                last = part.last
                part.count(second)
                part.state = state
                if number == self._own:
                    self._show(last)  # whoever has not told of it by now is late
                self._show_heard()
            case Begun():
                self._begin(number, part, message)

    def _begin(self, number: int, part: Part, told: Begun) -> None:
        """From its beginning, or again: then some of it is known."""
        for frame in told.placements:
            self._placed(part, frame)
        for second in told.seconds:
            part.count(second)
        if number == self._own and not part.begun:
            self._shown = part.last
        part.begun = part.heard = True
        if all(one.begun for one in self._parts.values()):
            self._begun.set()

    def _placed(self, part: Part, frame: Frame) -> None:
        if part.place(frame):
            self._tell("placement", frames.aged(frame, self._clock.now()))
        elif part.end(frame):
            self._tell("ended", {name: frame[name] for name in ("id", *RESULT)})

    def _show_heard(self) -> None:
        """The last second that everybody has told of who is heard, this process among them."""
        heard = [one.last for one in self._parts.values() if one.heard]
        if self._parts[self._own].heard:
            self._show(min(heard))

    def _show(self, number: int) -> None:
        if number > self._shown:
            self._shown = number
            if self._watchers:
                (point,) = course(self._parts.values(), number, 1)
                self._tell("snapshot", self.snapshot(point))

    def snapshot(self, point: Point) -> Frame:
        states = [one.state for one in self._parts.values()]
        shunned = frozenset(id for one in states for id in one.shunned)
        facts = {
            **self._sources.facts(),
            "running": sum(one.running for one in states),
            "queued": sum(one.waiting for one in states),
        }
        return {"router": facts, "pods": frames.pods(self._sources.fleet(), shunned), "point": point}

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
