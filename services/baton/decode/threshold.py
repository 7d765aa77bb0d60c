"""Whether the rest of a prompt is computed here or handed over: measured on both ways, decided by a number.

A hand-over costs something even for a single token: asking, waiting for a step there, the way back. What
this pod computes itself in less than that gains its client time, and holds up what is being decoded here for
no longer. `Threshold` keeps the samples of both ways for the decode pod; the decision is `threshold`. Pure.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

Sample = tuple[int, float]
"""(tokens that were not cached, seconds)."""

KEPT = 48
"""Samples of each way."""
ENOUGH = 6
"""Below so many samples of a way nothing is concluded."""
START = 64
"""Tokens below which prompts are computed here, before enough was measured."""
LEAST = 16
"""Always computed here, so that this way goes on being measured."""
MOST = 2048
"""Never more than this: what is decoded here would wait too long, whatever the samples say."""


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds = fixed + tokens * each."""

    fixed: float
    each: float


def line(samples: Sequence[Sample]) -> Line | None:
    """Through the middle of the samples, whatever outliers there are (the median of all slopes between two).
    None when they are too few, or too much alike in length to tell the fixed part from the rest."""
    lengths = [tokens for tokens, _ in samples]
    if len(samples) < ENOUGH or max(lengths) < 2 * min(lengths):
        return None
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2) if a[0] != b[0]]
    each = max(0.0, statistics.median(slopes))
    return Line(max(0.0, statistics.median(seconds - tokens * each for tokens, seconds in samples)), each)


def threshold(here: Sequence[Sample], away: Sequence[Sample]) -> int:
    """Uncached tokens below which computing here takes less time than a hand-over's fixed part."""
    remote = line(away)
    if remote is None or len(here) < ENOUGH:
        return START
    longest = max(tokens for tokens, _ in here)
    # Beyond what was measured here nothing is known: the bound doubles as longer prompts are tried.
    bound = min(max(2 * longest, START), MOST)
    local = line(here) or Line(statistics.median(seconds for _, seconds in here), 0.0)
    if local.fixed >= remote.fixed:
        return LEAST
    fits = bound if local.each <= 0 else int((remote.fixed - local.fixed) / local.each)
    return max(LEAST, min(fits, bound))


class Threshold:
    """The samples of one decode pod. One owner, the event loop."""

    def __init__(self) -> None:
        self._here: deque[Sample] = deque(maxlen=KEPT)
        self._away: deque[Sample] = deque(maxlen=KEPT)
        self._known: int | None = START

    def computed(self, tokens: int, seconds: float) -> None:
        """A rest of a prompt was computed here: from its first step to its first token."""
        self._here.append((tokens, seconds))
        self._known = None

    def handed_over(self, tokens: int, seconds: float) -> None:
        """One was handed over: from asking to the last page's landing."""
        self._away.append((tokens, seconds))
        self._known = None

    @property
    def local_below(self) -> int:
        if self._known is None:
            self._known = threshold(self._here, self._away)
        return self._known

    def __repr__(self) -> str:
        return f"<Threshold {len(self._here)} here, {len(self._away)} away: below {self.local_below} here>"
