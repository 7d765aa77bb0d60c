"""What a check found. Checks make them, the command prints them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    FINE = "ok"
    NOTE = "note"
    """Nothing wrong here, but worth knowing."""
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    grade: Grade
    seen: str
    advice: str = ""
    """What to do about it."""


def fine(what: str, seen: str) -> Finding:
    return Finding(what, Grade.FINE, seen)


def note(what: str, seen: str, advice: str = "") -> Finding:
    return Finding(what, Grade.NOTE, seen, advice)


def wrong(what: str, seen: str, advice: str) -> Finding:
    return Finding(what, Grade.WRONG, seen, advice)
