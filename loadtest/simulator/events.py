"""Virtual time: what is due is called in the order of its time, and of its being asked for."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class Events:
    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, time: float, call: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._due, (max(time, self.now), self._count, call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def run(self, until: Callable[[], bool]) -> None:
        """Until that is so, or nothing is due any more."""
        due = self._due
        while due and not until():
            self.now, _, call = heappop(due)
            call()
