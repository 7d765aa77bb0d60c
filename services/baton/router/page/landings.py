"""Asks decode pods what was handed over to them since they were last asked, and what their caches saved.

Only while a page is open: what happened before the first question counts for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from baton.core.clock import Clock
from baton.core.errors import BatonError
from baton.router.page.frames import Frame
from baton.state import WorkerLease

Ask = Callable[[str, str], Awaitable[bytes]]
"""Pod's id and path → body; raises BatonError when there is none. Has a deadline."""

LONGEST_GAP_S = 10.0
"""Between two questions; after a longer one, nobody watched in between."""


@dataclass(slots=True)
class _Cursor:
    """How far one run of a pod has been read."""

    incarnation: str
    after: int = 0
    prompt: int | None = None
    cached: int = 0
    asked_at: float = 0.0


@dataclass(slots=True)
class Landings:
    workers: Callable[[], Iterable[WorkerLease]]
    ask: Ask
    clock: Clock
    prompt: int = 0
    """Prompt tokens that pods took in while they were asked."""
    cached: int = 0
    """Those of them that nobody had to compute again."""
    _cursors: dict[str, _Cursor] = field(default_factory=dict)

    async def new(self) -> list[Frame]:
        """In the order of their landing at each pod."""
        decodes = [lease for lease in self.workers() if lease.role != "prefill"]
        self._cursors = {lease.id: self._cursor(lease) for lease in decodes}
        found = await asyncio.gather(*(self._of(lease) for lease in decodes))
        return [frame for several in found for frame in several]

    def _cursor(self, lease: WorkerLease) -> _Cursor:
        known = self._cursors.get(lease.id)
        return known if known and known.incarnation == lease.incarnation else _Cursor(lease.incarnation)

    async def _of(self, lease: WorkerLease) -> list[Frame]:
        cursor = self._cursors[lease.id]
        try:
            told: Any = msgspec.json.decode(await self.ask(lease.id, f"/handoffs?after={cursor.after}"))
            landed, now = told["landed"], self.clock.now()
            frames = [_frame(lease.id, one, now) for one in landed]
            self._count(cursor, told["prompt_tokens"], told["cached_tokens"], now)
            cursor.after = told["last"]
        except (BatonError, msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            return []  # of another release, or just dying: the fleet will tell
        return frames

    def _count(self, cursor: _Cursor, prompt: int, cached: int, now: float) -> None:
        if cursor.prompt is not None and now - cursor.asked_at < LONGEST_GAP_S:
            self.prompt += prompt - cursor.prompt
            self.cached += cached - cursor.cached
        cursor.prompt, cursor.cached, cursor.asked_at = prompt, cached, now


def _frame(pod: str, one: dict[str, Any], now: float) -> Frame:
    return {
        "id": one["request"], "from": one["prefill"], "to": pod, "tokens": one["tokens"],
        "bytes": one["bytes"], "ms": one["ms"], "at": now - one["age_s"],
    }  # fmt: skip
