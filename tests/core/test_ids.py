"""Ids: their form, their order, and that no two meet."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from baton.core.ids import attempt_id, incarnation_id, made_at, request_id

KINDS = [(request_id, "req"), (incarnation_id, "inc"), (attempt_id, "att")]


@pytest.mark.parametrize(("make", "kind"), KINDS)
def test_an_id_is_its_kind_and_24_plain_characters(make: Callable[[], str], kind: str) -> None:
    assert re.fullmatch(rf"{kind}-[0-9abcdefghjkmnpqrstvwxyz]{{24}}", make())


def test_ids_sort_by_age() -> None:
    moments = [0, 1, 31, 32, 1_763_700_000_000, 1_763_700_000_001, 2**44]
    ids = [request_id(lambda moment=moment: moment) for moment in moments]  # type: ignore[misc]
    assert ids == sorted(ids)
    assert len({made[: len("req-") + 9] for made in ids}) == len(moments)


@pytest.mark.parametrize("moment", [0, 1_763_700_000_123, 2**44])
def test_an_id_tells_when_it_was_made(moment: int) -> None:
    assert made_at(request_id(lambda: moment)) == moment // 1000


def test_ids_of_one_millisecond_differ_in_every_place_of_chance() -> None:
    ids = [request_id(lambda: 5) for _ in range(500)]
    assert len(set(ids)) == len(ids)
    assert {made[:13] for made in ids} == {"req-000000005"}
    for place in range(13, 28):
        assert len({made[place] for made in ids}) > 16


def test_the_wall_clock_is_asked_by_default() -> None:
    before, after = request_id(lambda: 1_700_000_000_000), request_id(lambda: 4_000_000_000_000)
    assert before < request_id() < after
