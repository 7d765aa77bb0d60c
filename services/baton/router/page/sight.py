"""What one process sees and decides, as it comes, for whoever follows it: its own page, and its siblings.

It reads what the process keeps anyway; nothing on a request's way calls it. A follower that does not read is
let go, and may begin again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from baton.core.clock import Clock
from baton.router.page import frames
from baton.router.page.course import Course, Reading
from baton.router.relay.trail import Placement
from baton.router.siblings import Begun, Ended, Message, Placed, State, Ticked

SHOWN_PLACEMENTS = 50
LOOK_S = 0.2
"""How often new placements are looked for, while somebody follows."""
LONGEST_QUEUE = 512
"""Messages that may wait for one follower."""
NEARLY_S = 0.05
"""Nearer than this to a second is at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Where it looks. None of it waits."""

    placements: Callable[[], tuple[Placement, ...]]
    """The last ones, oldest first."""
    reading: Callable[[], Reading]
    state: Callable[[], State]


class Sight:
    """`run` it for as long as the router runs."""

    def __init__(self, seen: Seen, clock: Clock) -> None:
        self._seen = seen
        self._clock = clock
        self._course = Course()
        self._followers: set[asyncio.Queue[Message | None]] = set()
        self._followed = asyncio.Event()
        self._known: dict[str, bool] = {}
        """Placement → whether its first token was told too."""
        self._closed = False

    def __repr__(self) -> str:
        return f"<Sight: {len(self._followers)} followers>"

    async def follow(self) -> AsyncIterator[Message]:
        """From now on; ends when it is closed, or this follower was let go."""
        if self._closed:
            return
        queue: asyncio.Queue[Message | None] = asyncio.Queue(LONGEST_QUEUE)
        self._look()  # what is not told yet is news to those who follow already
        last = self._seen.placements()[-SHOWN_PLACEMENTS:]
        queue.put_nowait(Begun([frames.placement(one) for one in last], list(self._course.seconds)))
        self._followers.add(queue)
        self._followed.set()
        try:
            while queue in self._followers or not queue.empty():
                message = await queue.get()
                if message is not None:
                    yield message
        finally:
            self._leave(queue)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._each_second())
                group.create_task(self._while_followed())
        finally:
            self.close()

    def close(self) -> None:
        """Let every follower go."""
        self._closed = True
        for queue in tuple(self._followers):
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(None)
            self._leave(queue)

    def _leave(self, queue: asyncio.Queue[Message | None]) -> None:
        self._followers.discard(queue)
        if not self._followers:
            self._followed.clear()

    async def _each_second(self) -> None:
        """At the seconds of the host's clock, so that those of all its processes are the same."""
        while True:
            now = self._clock.now()
            second = self._course.read(int(now + NEARLY_S), self._seen.reading())
            if second is not None and self._followers:
                self._look()
                self._tell(Ticked(second, self._seen.state()))
            left_s = 1.0 - self._clock.now() % 1.0
            await self._clock.sleep(left_s if left_s > NEARLY_S else 1.0 + left_s)

    async def _while_followed(self) -> None:
        while True:
            await self._followed.wait()
            self._look()
            await self._clock.sleep(LOOK_S)

    def _look(self) -> None:
        """Tell what is new of placements, in their order."""
        known: dict[str, bool] = {}
        for one in self._seen.placements():
            key, timed = frames.name(one), one.ttft_s is not None
            before = self._known.get(key)
            if self._followers:
                if before is None:
                    self._tell(Placed(frames.placement(one)))
                elif timed and not before:
                    self._tell(Ended(frames.ended(one)))
            known[key] = timed
        self._known = known

    def _tell(self, message: Message) -> None:
        for queue in tuple(self._followers):
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                self._leave(queue)
