from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.decode.threshold import ENOUGH, KEPT, LEAST, MOST, START, Line, Sample, Threshold, line, threshold


def samples(fixed: float, each: float, lengths: list[int], noise: float = 0.0, seed: int = 1) -> list[Sample]:
    chance = random.Random(seed)
    return [(n, (fixed + each * n) * (1 + chance.uniform(0, noise))) for n in lengths]


SHORT, LONG = [20, 30, 40, 64, 90, 128], [200, 500, 900, 2000, 3000, 7000]


def test_below_the_crossing_it_is_computed_here() -> None:
    """A step of 8 ms here, 50,000 tokens a second; a hand-over costs 14 ms before its first token."""
    here, away = samples(0.008, 2e-5, SHORT * 2), samples(0.014, 2e-5, LONG)
    assert threshold(here, away) == 2 * max(SHORT), "it goes no further than was tried"
    assert threshold([*here, *samples(0.008, 2e-5, [400])], away) == pytest.approx(300, abs=1)


def test_a_slow_engine_hands_over_what_a_fast_one_keeps() -> None:
    away = samples(0.014, 2e-5, LONG)
    lengths = [*SHORT, 1000]
    below = [threshold(samples(0.004, each, lengths), away) for each in (1e-3, 1e-4, 1e-5)]
    assert below == sorted(below) and below[0] == LEAST and below[-1] > 900
    assert threshold(samples(0.02, 1e-5, lengths), away) == LEAST, "a step here costs more than all of it"


def test_until_enough_was_measured_the_number_stays() -> None:
    here, away = samples(0.001, 1e-5, SHORT), samples(0.1, 1e-5, LONG)
    assert threshold(here[: ENOUGH - 1], away) == threshold(here, away[: ENOUGH - 1]) == START
    assert threshold(here, samples(0.1, 1e-5, [2000] * 9)) == START, "all alike: how much is fixed is unknown"


def test_longer_prompts_are_tried_step_by_step() -> None:
    """With a hand-over that is always slow, the bound doubles with what was measured, up to a limit."""
    away = samples(5.0, 1e-5, LONG)
    seen = []
    measured = Threshold()
    for tokens, seconds in away:
        measured.handed_over(tokens, seconds)
    for _ in range(12):
        below = measured.local_below
        seen.append(below)
        for tokens in range(below // 2, below, max(1, below // ENOUGH)):
            measured.computed(tokens, 0.001 + tokens * 1e-5)
    assert seen == sorted(seen) and seen[0] == START and seen[-1] == MOST
    assert all(b <= 2 * a for a, b in itertools.pairwise(seen))


@given(
    st.floats(0, 0.1), st.floats(1e-6, 1e-3), st.lists(st.integers(1, 8000), min_size=ENOUGH, max_size=KEPT)
)
def test_a_line_is_found_among_outliers(fixed: float, each: float, lengths: list[int]) -> None:
    made = samples(fixed, each, lengths)
    found = line(made)
    if max(lengths) < 2 * min(lengths):
        assert found is None
        return
    assert found is not None
    assert found.fixed == pytest.approx(fixed, abs=1e-6) and found.each == pytest.approx(each, rel=1e-3)
    if len(set(lengths)) > 20:
        spoiled = [(n, s * 30) if i % 8 == 0 else (n, s) for i, (n, s) in enumerate(made)]
        again = line(spoiled)
        assert again is not None and again.each == pytest.approx(each, rel=0.5)


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 100)), max_size=KEPT),
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 100)), max_size=KEPT),
)
def test_whatever_was_measured_the_number_is_sane(here: list[Sample], away: list[Sample]) -> None:
    assert LEAST <= threshold(here, away) <= MOST
    assert line([]) is None and isinstance(line(samples(1, 1, SHORT)), Line)
