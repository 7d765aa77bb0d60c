"""What a filled step is made of: pure functions over sequences."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import cast

import pytest

from baton.core.types import Request, SamplingParams
from baton.engine.filling import LONG, ahead_of, longest, surplus
from baton.engine.policy import LOOKED_AT
from baton.engine.sequence import Sequence
from baton.grammar.matcher import Matcher


def sequence(arrival: int, prompt: int, output: int | None, computed: int = 0) -> Sequence:
    request = Request(id=f"r{arrival}", token_ids=(1,) * prompt, sampling=SamplingParams(max_tokens=output))
    made = Sequence(request, arrival, 40_000 if output is None else prompt + output, frozenset())
    made.computed = computed
    return made


@pytest.mark.parametrize(
    ("prompts", "running", "wanted"),
    [
        ([], [], 0),
        ([(10, 5)], [], 10 + 5 - 4 * 5),
        ([(10, 5), (30, 1)], [(7, 6)], 40 + 12 - 4 * 6),
        ([(50, 9), (50, 9), (50, 9)], [], 150 + 27 - 4 * 13.5),
        ([(10, None)], [(7, 6)], inf),
        ([(10, 5)], [(7, None)], inf),
        ([(LONG, 5)], [], LONG + 5 - 4 * 5),
        ([(LONG + 1, 5)], [], inf),
        ([(10, 5)], [(LONG + 1, 6)], 10 + 11 - 4 * 6),
        ([(1, 1)] * (LOOKED_AT + 1), [], inf),
    ],
    ids=str,
)
def test_surplus_is_what_four_lines_and_two_rows_have_no_room_for(
    prompts: list[tuple[int, int | None]], running: list[tuple[int, int | None]], wanted: float
) -> None:
    waiting = [sequence(i, *one) for i, one in enumerate(prompts)]
    decoding = [sequence(99 + i, *one, computed=one[0]) for i, one in enumerate(running)]
    assert surplus(waiting, decoding, lines=4, rows=2) == wanted


def test_whoever_may_end_before_is_not_known() -> None:
    plain, stopped, worded = (sequence(i, 10, 5) for i in range(3))
    stopped.stops = frozenset([7])
    worded.request = replace(plain.request, sampling=SamplingParams(max_tokens=5, stop=("end",)))
    formed = sequence(3, 10, 5)
    formed.matcher = cast("Matcher", object())
    assert surplus([plain], [], 4, 2, certain=True) == surplus([plain], [], 4, 2)
    for one in (stopped, worded, formed, sequence(4, 10, None)):
        assert surplus([plain, one], [], 4, 2, certain=True) == inf
        assert surplus([plain], [one], 4, 2, certain=True) == inf


def test_what_is_computed_of_a_prompt_is_no_surplus() -> None:
    assert surplus([sequence(0, 10, 5, computed=8)], [], lines=4, rows=2) == 2 + 5 - 4 * 5


def test_who_has_as_much_left_goes_before_a_prompt() -> None:
    ahead = ahead_of([sequence(0, 3, 9), sequence(1, 3, 5), sequence(2, 3, 5), sequence(3, 3, None)])
    assert [ahead(sequence(9, 3, output)) for output in (4, 5, 6, 9, 10, None)] == [4, 4, 2, 2, 1, 1]


def test_those_with_the_most_left_stay_in_their_order() -> None:
    running = [sequence(i, 3, output) for i, output in enumerate([4, 9, 5, 5, None])]
    assert [one.arrival for one in longest(running, 3)] == [1, 2, 4]
    assert longest(running, inf) == longest(running, 5) == running
    assert longest(running, 0) == []
