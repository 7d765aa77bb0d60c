"""Time as a collaborator: whoever waits, leases or times out is given a Clock and never asks the system.

Tests pass `baton.testing.ManualClock`. Values are seconds from an arbitrary start, so only their
differences mean anything, and none may travel to another host (send durations instead).
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds, never going back. Free to call in hot loops."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let other tasks run for so long; zero or less only yields. Cancellable."""
        ...

    def pause(self, seconds: float) -> None:
        """Block this thread for so long. Never call it on an event loop."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    def __repr__(self) -> str:
        return f"SystemClock(now={self.now():.3f})"
