"""What a feed knows of each process: its last placements, its seconds, how it is; and of all together.

A process that is lost leaves what it told; one that is started again in its place goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from baton.router.page.course import KEPT, SPAN, Point, merged, points
from baton.router.page.frames import Frame
from baton.router.page.sight import SHOWN_PLACEMENTS
from baton.router.siblings import Second, State

KEPT_PLACEMENTS = 256
RESULT = ("outcome", "ttft_ms")
"""What of a placement comes later."""


@dataclass(slots=True)
class Part:
    """Of one process."""

    placements: dict[str, Frame] = field(default_factory=dict)
    seconds: dict[int, Second] = field(default_factory=dict)
    state: State = field(default_factory=State)
    begun: bool = False
    """It has told what it knows, once."""
    heard: bool = False
    """It tells what comes."""

    def lose(self) -> None:
        """It tells no more: what it told stays, how it is now nobody knows."""
        self.heard, self.state = False, State()

    def place(self, frame: Frame) -> bool:
        """Whether it is new."""
        new = frame["id"] not in self.placements
        if new:
            self.placements[frame["id"]] = frame
            if len(self.placements) > KEPT_PLACEMENTS:
                del self.placements[next(iter(self.placements))]
        return new

    def end(self, frame: Frame) -> bool:
        """How a placement turned out, or is by now. Whether that was unknown."""
        known = self.placements.get(frame["id"])
        if known is None or frame["ttft_ms"] is None or known["ttft_ms"] is not None:
            return False
        self.placements[frame["id"]] = {**known, **{name: frame[name] for name in RESULT}}
        return True

    def count(self, second: Second) -> None:
        self.seconds[second.number] = second
        for number in [one for one in self.seconds if one <= second.number - KEPT - SPAN]:
            del self.seconds[number]

    @property
    def last(self) -> int:
        """The number of its last second."""
        return max(self.seconds, default=0)


def course(parts: Iterable[Part], until: int, count: int) -> list[Point]:
    """The last points of all together, up to the second of that number."""
    by_number: dict[int, list[Second]] = {}
    for part in parts:
        for number, second in part.seconds.items():
            if until - count - SPAN < number <= until:
                by_number.setdefault(number, []).append(second)
    seconds = [merged(by_number[number]) for number in sorted(by_number)]
    return points(seconds, count)


def latest(parts: Iterable[Part]) -> list[Frame]:
    """The last placements of all, oldest first."""
    every = [frame for part in parts for frame in part.placements.values()]
    return sorted(every, key=lambda frame: float(frame["at"]))[-SHOWN_PLACEMENTS:]
