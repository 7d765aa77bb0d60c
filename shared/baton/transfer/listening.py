"""The attempts whose chunks are expected, and the notes that say they came.

Runs on the mover's thread alone. A note counts when attempt, sender and rank are exactly those
announced and its chunk is new; every other note is stray, counted and dropped. So nothing that comes
late can revive an attempt that was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baton.transfer.notes import Arrivals, NoteKind, decode
from baton.transfer.orders import Landed, Overdue, Report, Sources, Taken


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

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, attempt: str, sources: Sources, timeout_s: float) -> None:
        self._expected[attempt] = _Expected(Arrivals(sources), self._clock() + timeout_s)

    def forget(self, attempt: str) -> None:
        self._expected.pop(attempt, None)

    def hear(self, sender: str, data: bytes) -> None:
        note = decode(data)
        expected = None if note is None else self._expected.get(note.attempt)
        if note is None or expected is None or not expected.arrivals.add(sender, note):
            self.stray += 1
            return
        complete = expected.arrivals.complete
        if complete:
            del self._expected[note.attempt]
        self.heard += 1
        made = Landed if note.kind is NoteKind.LANDED else Taken
        self._report(made(note.attempt, sender, note.rank, note.chunk, note.last, complete))

    def expire(self) -> None:
        now = self._clock()
        for attempt in [name for name, expected in self._expected.items() if now >= expected.deadline]:
            self._report(Overdue(attempt, self._expected.pop(attempt).arrivals.missing()))
