"""Whether reading a prefix is cheaper than computing it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

ROUND_TRIP_S = 0.002
"""Asking the owner, its lock, and both engines' looks at their messages; the reading comes on top."""
MARGIN = 1.5
"""Computing must cost this much more: it needs no other worker, and its figures are the surer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What this worker has measured; 0 is not known."""

    page_bytes: int
    page_tokens: int
    tokens_per_s: float
    """Of prompts computed here."""
    bytes_per_s: float
    """Of reads from the owner."""


def worth_reading(rates: Rates) -> int:
    """The fewest missing pages for which reading pays; 0 when it never does, or nothing is known of it."""
    if rates.bytes_per_s <= 0 or rates.tokens_per_s <= 0:
        return 0
    compute = rates.page_tokens / rates.tokens_per_s
    read = rates.page_bytes / rates.bytes_per_s
    gained = compute / MARGIN - read
    return 0 if gained <= 0 else max(1, int(ROUND_TRIP_S / gained) + 1)
