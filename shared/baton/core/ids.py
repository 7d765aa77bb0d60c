"""Names for things that must never be confused: requests, and the runs of a worker.

An id is a kind, a dash, and 24 characters: nine of milliseconds since 1970, so ids sort by age, and
fifteen (75 bits) of the system's randomness, so nobody can guess another's id or meet it by chance.
Characters are lower-case base 32 without i, l, o and u: safe in URLs, label values and Redis keys.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""In ASCII order, so that the order of ids is the order of the numbers they spell."""

AGE_LENGTH = 9
CHANCE_LENGTH = 15

Milliseconds = Callable[[], int]
"""Milliseconds since 1970, by the wall clock."""


def wall_milliseconds() -> int:
    return time.time_ns() // 1_000_000


def request_id(now: Milliseconds = wall_milliseconds) -> str:
    """A name for one request, given by the router (or by an engine that serves alone)."""
    return _make("req", now)


def made_at(id: str) -> int:
    """When one of these was made, in seconds since 1970."""
    age = id.partition("-")[2][:AGE_LENGTH]
    number = 0
    for character in age:
        number = number << 5 | ALPHABET.index(character)
    return number // 1000


def incarnation_id(now: Milliseconds = wall_milliseconds) -> str:
    """A name for one run of one worker; a restarted worker has another."""
    return _make("inc", now)


def attempt_id(now: Milliseconds = wall_milliseconds) -> str:
    """A name for one attempt at a handoff; a repeated handoff has another."""
    return _make("att", now)


def session_id(now: Milliseconds = wall_milliseconds) -> str:
    """A name for one conversation of two workers; it is another once either was taken for lost."""
    return _make("ses", now)


def _make(kind: str, now: Milliseconds) -> str:
    return f"{kind}-{_spell(now(), AGE_LENGTH)}{_spell(secrets.randbits(5 * CHANCE_LENGTH), CHANCE_LENGTH)}"


def _spell(number: int, length: int) -> str:
    """The lowest `5 * length` bits of a number, highest first."""
    return "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (length - 1), -1, -5))
