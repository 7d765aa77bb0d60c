"""How many pages admission leaves for what running sequences will still generate.

Reserving every sequence's whole `max_tokens` wastes the pool, since most stop early; reserving
nothing makes the engine retract over and over. So a share of what is outstanding is reserved: it
shrinks while all goes well and jumps when a retraction shows that it was too small.
"""

from __future__ import annotations

from collections.abc import Iterable

from baton.engine.sequence import Sequence

START = 0.5
LEAST = 0.1
DECAY = 0.998
"""A step without retraction shrinks the share by this factor: from START to LEAST in some 800 steps."""
FAR = 4096
"""Tokens beyond which a sequence's outstanding output is not looked at."""


class Headroom:
    def __init__(self) -> None:
        self.share = START

    def tokens(self, sequences: Iterable[Sequence]) -> int:
        """Tokens to keep room for."""
        outstanding = sum(min(s.limit - len(s.tokens), FAR) for s in sequences)
        return int(outstanding * self.share)

    def eased(self) -> None:
        self.share = max(LEAST, self.share * DECAY)

    def retracted(self) -> None:
        self.share = min(1.0, self.share * 1.5 + 0.1)
