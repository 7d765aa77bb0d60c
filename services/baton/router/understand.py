"""From a body to a request that pods can run: validated, tokenized, seeded; long ones off the event loop.

What a key may not choose is set here: its salt, which keeps tenants' prefixes apart, and its priority.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from baton.core.errors import CannotContinue, Refused
from baton.core.ids import made_at
from baton.grammar.checker import Checker
from baton.openai import Asked, Bookmark, ServedModel, mark_of
from baton.openai.bookmark import HEADER
from baton.router.entry import Key
from baton.router.pods import Generation, Pods

T = TypeVar("T")

SHORT_BODY_BYTES = 8192
"""Up to here a body is read on the event loop: handing it to a thread takes longer."""
TOGETHER = 4
"""Long bodies that are read at the same time: more would only wait for each other."""
PRIORITY_SPAN = 500
"""How far a client may move its own requests; keys are this much further apart."""

Read = Callable[..., Asked]


class Understanding:
    def __init__(self, pods: Pods, shared_cache: bool, checker: Checker) -> None:
        self._checker = checker
        self._pods = pods
        self._shared_cache = shared_cache
        self._places = asyncio.Semaphore(TOGETHER)

    def generation(self, bookmark: Bookmark | None = None) -> Generation:
        """What requests are read for; Refused while no pod takes any, unless some are on their way. An answer
        goes on where it began."""
        found = self._pods.generation or (self._pods.catalog.last if self._pods.changing else None)
        if found is None:
            raise Refused("no pod takes requests now")
        if bookmark is None or mark_of(found.kind.fingerprint) == bookmark.model:
            return found
        other = self._pods.other(found.kind)
        if other is None or mark_of(other.kind.fingerprint) != bookmark.model:
            raise CannotContinue(
                HEADER, "the model that gave this answer is served no more; ask for a new one"
            )
        return other

    async def asked(
        self,
        read: Read,
        body: bytes,
        key: Key,
        id: str,
        generation: Generation,
        bookmark: Bookmark | None = None,
    ) -> Asked:
        def work() -> Asked:
            return read(body, generation.model, id=id, created=made_at(id)).seeded()

        asked = await self.off_loop(body, work)
        for form in asked.forms:
            await self._checker.check(form.grammar, form.field)
        if bookmark is not None:
            asked.check_continued()
        priority = max(-PRIORITY_SPAN, min(PRIORITY_SPAN - 1, asked.priority))
        salt = asked.cache_salt
        if key.name and not self._shared_cache:
            salt = f"{key.name}\0{salt}"
        return replace(asked, priority=2 * PRIORITY_SPAN * key.priority + priority, cache_salt=salt)

    async def convert(self, convert: Callable[[bytes, ServedModel], bytes], body: bytes) -> bytes:
        """/tokenize and /detokenize: they need no pod that is alive, only to have met one."""
        found = self._pods.generation or self._pods.catalog.last
        if found is None:
            raise Refused("no pod has been met yet")
        return await self.off_loop(body, lambda: convert(body, found.model))

    async def off_loop(self, body: bytes, work: Callable[[], T]) -> T:
        """Do what grows with a body's length where it holds nobody up."""
        if len(body) <= SHORT_BODY_BYTES:
            return work()
        async with self._places:
            return await asyncio.to_thread(work)
