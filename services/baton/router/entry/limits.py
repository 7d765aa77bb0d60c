"""How much each key may ask of one router process: a token bucket for its rate, a count of what is open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from baton.core.clock import Clock
from baton.core.errors import RateLimited
from baton.router.entry.keys import Key

BURST_S = 2.0
"""A key that was quiet may ask so many seconds' worth at once."""


@dataclass(slots=True)
class _Use:
    running: int = 0
    left: float = 0.0
    at: float = 0.0


class KeyLimits:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def __repr__(self) -> str:
        return f"KeyLimits({len(self._uses)} keys in use)"

    @contextmanager
    def hold(self, key: Key) -> Iterator[None]:
        """One request of this key; RateLimited when it has as many as it may."""
        if not key.rate and not key.concurrency:
            yield
            return
        now = self._clock.now()
        use = self._uses.get(key.name)
        if use is None:
            use = self._uses[key.name] = _Use(left=_burst(key), at=now)
        if key.concurrency and use.running >= key.concurrency:
            raise RateLimited(f"{use.running} requests of this key are under way, the most it may have")
        if key.rate:
            use.left = min(_burst(key), use.left + (now - use.at) * key.rate)
            use.at = now
            if use.left < 1:
                error = RateLimited(f"this key may ask {key.rate:g} times a second")
                error.retry_after_s = (1 - use.left) / key.rate
                raise error
            use.left -= 1
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1


def _burst(key: Key) -> float:
    return max(1.0, key.rate * BURST_S)
