"""A background task that does one thing again and again, whatever Redis does meanwhile.

Keeper, writer, board, reader and load board each own one. A round that cannot reach Redis is repeated
after a growing, jittered pause; a round that fails through a mistake of ours is logged, counted and
repeated too: what the cluster knows must never end a process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from baton.core.clock import Clock
from baton.core.errors import StateUnreachable
from baton.state.address import backoff

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 1.0
"""Between two attempts to reach Redis: its return is noticed within this time."""
FAULT_PAUSE_S = 1.0
CANCEL_PAUSE_S = 0.2
MOST_DOUBLINGS = 10
"""The backoff is at its cap long before; its arithmetic overflows long after."""


class Rounds:
    """Calls `step` until closed; `step` says how many seconds to rest after it."""

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[float]],
        clock: Clock,
        *,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self._name = name
        self._step = step
        self._clock = clock
        self._backoff = backoff(longest_pause_s)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.failures = 0
        """Rounds in a row that could not reach Redis."""
        self.faults = 0
        """Rounds that failed through a mistake of ours, since the start."""

    def start(self) -> None:
        assert self._task is None, f"{self._name} runs already"
        self._task = asyncio.create_task(self._run(), name=self._name)

    def wake(self) -> None:
        """End the rest after this round. A pause after a failure is not cut short."""
        self._woken.set()

    async def close(self) -> None:
        """Cancel what runs, and wait for it to be gone."""
        task, self._task = self._task, None
        while task is not None and not task.done():
            # Again and again: a library on the way may lose a cancellation.
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_PAUSE_S)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                rest_s = await self._step()
            except StateUnreachable:
                self.failures += 1
                await self._clock.sleep(self._backoff.compute(min(self.failures, MOST_DOUBLINGS)))
            except Exception:
                self.faults += 1
                log.exception("a round failed and will be repeated", extra={"round": self._name})
                await self._clock.sleep(FAULT_PAUSE_S)
            else:
                self.failures = 0
                await self._rest(rest_s)

    async def _rest(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        ends = [
            asyncio.ensure_future(self._clock.sleep(seconds)),
            asyncio.ensure_future(self._woken.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
