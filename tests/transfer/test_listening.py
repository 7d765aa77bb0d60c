"""Notes count for the attempts that are announced, also when they come before the announcement."""

from __future__ import annotations

from baton.testing import ManualClock
from baton.transfer.listening import EARLY_NOTES, EARLY_S, Listening
from baton.transfer.notes import Note, NoteKind, encode
from baton.transfer.orders import Landed, Report


def landed(attempt: str, chunk: int = 0, last: bool = True) -> bytes:
    return encode(Note(NoteKind.LANDED, attempt, 0, chunk, last))


def listening() -> tuple[Listening, list[Report], ManualClock]:
    reports: list[Report] = []
    clock = ManualClock()
    return Listening(reports.append, clock.now), reports, clock


def test_notes_before_the_announcement_count_once_it_comes() -> None:
    heard, reports, _ = listening()
    heard.hear("peer", landed("a", 0, last=False))
    heard.hear("stranger", landed("a", 0))
    assert not reports and heard.stray == 2
    heard.expect("a", {"peer": 0}, 10)
    assert [(r.chunk, r.complete) for r in reports if isinstance(r, Landed)] == [(0, False)]
    assert heard.stray == 1, "the stranger's stays stray"
    heard.hear("peer", landed("a", 1))
    assert isinstance(reports[-1], Landed) and reports[-1].complete


def test_an_early_note_waits_for_a_while_only() -> None:
    heard, reports, clock = listening()
    heard.hear("peer", landed("late"))
    clock.advance(EARLY_S + 1)
    heard.hear("peer", landed("other"))
    heard.expect("late", {"peer": 0}, 10)
    assert not reports


def test_early_notes_are_bounded_and_the_oldest_go_first() -> None:
    heard, reports, _ = listening()
    for i in range(EARLY_NOTES + 1):
        heard.hear("peer", landed(f"a{i}"))
    heard.expect("a0", {"peer": 0}, 10)
    assert not reports
    heard.expect("a1", {"peer": 0}, 10)
    assert len(reports) == 1


def test_what_was_forgotten_is_not_revived() -> None:
    heard, reports, _ = listening()
    heard.expect("a", {"peer": 0}, 10)
    heard.forget("a")
    heard.hear("peer", landed("a"))
    heard.forget("a")
    heard.expect("b", {"peer": 0}, 10)
    assert not reports and heard.stray == 1
