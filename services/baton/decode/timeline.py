"""When what happened to a request, as the pod that owns it sees it.

The engine tells its part with its updates; what else happens (peers that are asked, and what they tell) is
noted here and goes to whoever asked for the request with the next update.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from baton.protocol.engine import Course, Update

ELSEWHERE = {
    "queued": "prefill queued",
    "prefill started": "prefill started",
    "chunk computed": "chunk computed",
}
"""What a prefill pod's engine says of a leg → what that is for the request."""


@dataclass(slots=True)
class Timeline:
    began: float
    """By the monotonic clock of this host, as all times here."""
    marks: list[tuple[str, float]] = field(default_factory=list)
    prefill: str = ""
    """The pod that computed the prompt; empty for this one."""
    handed: int = 0
    """Bytes that were written into this pod."""
    cached: int | None = None
    """Tokens that the pod that computed the prompt found in its cache."""
    _told: int = 0

    def mark(self, what: str, at: float | None = None) -> None:
        self.marks.append((what, time.monotonic() if at is None else at))

    def began_at(self, ages: tuple[tuple[str, float], ...], cached: int) -> None:
        """What a prefill pod tells with the first token; `ages` are seconds before now, by its clock."""
        now = time.monotonic()
        for what, age in ages:
            if what in ELSEWHERE:
                self.mark(ELSEWHERE[what], now - age)
        self.cached = cached

    def computed_here(self, update: Update) -> float | None:
        """Seconds from the first step of a prompt that nobody else was asked for to its first token, which
        this update brings."""
        marks = dict(update.course.marks) if update.course is not None else {}
        if self.marks or not marks.keys() >= {"prefill started", "first token"} or "retracted" in marks:
            return None
        return marks["first token"] - marks["prefill started"]

    def pass_on(self, update: Update) -> None:
        """Let an update tell what was noted since the last one."""
        noted, said = self.marks[self._told :], update.course
        if said is not None:
            self.marks += said.marks
        if noted or said is not None:
            update.course = Course(noted + (said.marks if said else []), self.prefill, self.handed)
        self._told = len(self.marks)
        if update.cached is not None and self.cached is not None:
            update.cached = self.cached
