"""The attempts whose chunks are expected, and the notes that say they came.

Runs on the mover's thread alone. A note counts when attempt, sender and rank are exactly those
announced and its chunk is new; every other note is stray. Notes may overtake their announcement: a rank
that is told of an attempt behind a long step hears of its pages first. So a note of an unknown attempt is
kept for a while, and counts if the attempt is announced then. Attempt ids are never used twice, and
nothing announces one that was forgotten, so nothing that comes late can revive it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baton.transfer.notes import Arrivals, Note, NoteKind, decode
from baton.transfer.orders import Landed, Overdue, Report, Sources, Taken

EARLY_S = 30.0
"""How long a note waits for its attempt to be announced."""
EARLY_NOTES = 8192
"""Most notes that wait; the oldest attempt's go first."""


@dataclass(slots=True)
class _Early:
    """Notes of an attempt that nobody has announced."""

    until: float
    notes: list[tuple[str, Note]]


@dataclass(slots=True)
class _Expected:
    arrivals: Arrivals
    deadline: float


class Listening:
    def __init__(self, report: Callable[[Report], None], clock: Callable[[], float]) -> None:
        self.heard = 0
        self.stray = 0
        self._report = report
        self._clock = clock
        self._expected: dict[str, _Expected] = {}
        self._early: dict[str, _Early] = {}
        """By attempt, the first heard first."""
        self._kept = 0

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, attempt: str, sources: Sources, timeout_s: float) -> None:
        self._expected[attempt] = _Expected(Arrivals(sources), self._clock() + timeout_s)
        for sender, note in self._drop(attempt):
            self.stray -= 1
            self._take(sender, note)

    def forget(self, attempt: str) -> None:
        self._expected.pop(attempt, None)
        self._drop(attempt)

    def hear(self, sender: str, data: bytes) -> None:
        note = decode(data)
        if note is None:
            self.stray += 1
        elif note.attempt in self._expected:
            self._take(sender, note)
        else:
            self.stray += 1
            self._keep(sender, note)

    def _keep(self, sender: str, note: Note) -> None:
        now = self._clock()
        while self._early:
            oldest, early = next(iter(self._early.items()))
            if early.until > now and self._kept < EARLY_NOTES:
                break
            self._drop(oldest)
        kept = self._early.setdefault(note.attempt, _Early(now + EARLY_S, []))
        kept.notes.append((sender, note))
        self._kept += 1

    def _drop(self, attempt: str) -> list[tuple[str, Note]]:
        """Keep nothing of an attempt any more; what was kept."""
        early = self._early.pop(attempt, None)
        notes = early.notes if early is not None else []
        self._kept -= len(notes)
        return notes

    def _take(self, sender: str, note: Note) -> None:
        expected = self._expected.get(note.attempt)
        if expected is None or not expected.arrivals.add(sender, note):
            self.stray += 1
            return
        complete, pages = expected.arrivals.complete, expected.arrivals.pages
        if complete:
            del self._expected[note.attempt]
        self.heard += 1
        made = Landed if note.kind is NoteKind.LANDED else Taken
        self._report(made(note.attempt, sender, note.rank, note.chunk, note.last, complete, pages))

    def expire(self) -> None:
        now = self._clock()
        for attempt in [name for name, expected in self._expected.items() if now >= expected.deadline]:
            self._report(Overdue(attempt, self._expected.pop(attempt).arrivals.missing()))
