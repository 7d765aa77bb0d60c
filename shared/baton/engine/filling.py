"""How a step of decodes is filled up with tokens of prompts, for work whose answers' lengths are known.

A step of few lines reads the weights and multiplies little: lines more cost it less than they cost a step of
prompts alone. So prompts are best computed in the lines that the answers leave over, as far as there are
enough of these; and all answers should end together, for the last ones alone leave most lines empty. Pure
functions over sequences; a policy that gives way asks for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Listing
from math import inf

from baton.engine.policy import LOOKED_AT, known, left
from baton.engine.sequence import Sequence

LONG = 1024
"""Tokens of a prompt beyond which its lines read more of what lies before them than they save."""


def surplus(
    prompts: Listing[Sequence], running: Listing[Sequence], lines: int, rows: int, *, certain: bool = False
) -> float:
    """Tokens to compute that do not fit into the steps of `lines` which the answers take in any case, with
    `rows` of them at a time. Infinite where an answer's length is not bounded (with `certain`, not known),
    a prompt is too long, or there are so many that no lines will be empty."""
    if len(prompts) > LOOKED_AT or any(len(one.tokens) > LONG for one in prompts):
        return inf
    if certain and not all(known(one) for one in (*prompts, *running)):
        return inf
    answers = [left(one) for one in (*prompts, *running)]
    if (tokens := sum(answers)) == inf:
        return inf
    steps = max(max(answers, default=0), tokens / rows)
    return sum(len(one.tokens) - one.computed for one in prompts) + tokens - lines * steps


def ahead_of(running: Iterable[Sequence]) -> Callable[[Sequence], int]:
    """How many of those who run have at least as much of their answer left as a prompt will have."""
    lefts = sorted(map(left, running))
    return lambda prompt: len(lefts) - bisect_left(lefts, left(prompt))


def longest(running: list[Sequence], count: float) -> list[Sequence]:
    """Those `count` with the most left, in the order they came in."""
    if count >= len(running):
        return running
    chosen = set(sorted(running, key=lambda s: (-left(s), s.arrival))[: int(count)])
    return [s for s in running if s in chosen]
