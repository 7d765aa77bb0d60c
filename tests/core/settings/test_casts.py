"""Every type that a setting may have, from text and from a file's own values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from baton.core.settings.casts import CastError, describe, from_text, from_value


class Role(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Adapter:
    name: str
    rank: int = 8

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError("rank must be 1 or more")


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (str, " as it is ", " as it is "),
        (str, "", ""),
        (int, "-3", -3),
        (int, "1_000", 1000),
        (float, "1e-3", 0.001),
        (bool, "Yes", True),
        (bool, "0", False),
        (Path, "a/b", Path("a/b")),
        (Role, "decode", Role.DECODE),
        (Literal["a", 2], "2", 2),
        (int | None, "none", None),
        (int | None, "4", 4),
        (str | None, "none", None),
        (str | None, "text", "text"),
        (int | Literal["auto"], "auto", "auto"),
        (int | Literal["auto"], "7", 7),
        (tuple[int, ...], "1, 2,3", (1, 2, 3)),
        (tuple[int, ...], "", ()),
        (tuple[str, ...], '["a,b", "c"]', ("a,b", "c")),
        (tuple[str, int], "a,1", ("a", 1)),
        (dict[str, int], "a=1, b=2", {"a": 1, "b": 2}),
        (dict[str, str], "a=b=c", {"a": "b=c"}),
        (Mapping[str, int], '{"a": 1}', {"a": 1}),
        (dict[str, int], "", {}),
        (tuple[Adapter, ...], '[{"name": "x"}]', (Adapter("x"),)),
    ],
)
def test_text(hint: Any, text: str, value: object) -> None:
    made = from_text(hint, text)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("hint", "text", "rule"),
    [
        (int, "1.5", "an integer"),
        (int, "", "an integer"),
        (float, "inf", "a number"),
        (bool, "2", "true or false"),
        (Role, "router", "one of prefill, decode"),
        (bool | Literal["auto"], "maybe", "true or false or auto"),
        (int | None, "x", "an integer or none"),
        (tuple[int, ...], "1,x", "an integer"),
        (tuple[str, int], "a", "a list of 2: text, an integer, not of 1"),
        (dict[str, int], "a", "key=value,key=value"),
        (dict[str, int], "{a", "its JSON is broken"),
    ],
)
def test_text_that_is_refused(hint: Any, text: str, rule: str) -> None:
    with pytest.raises(CastError) as caught:
        from_text(hint, text)
    assert rule in caught.value.rule


@pytest.mark.parametrize(
    ("hint", "given", "value"),
    [
        (int, 16.0, 16),
        (float, 3, 3.0),
        (bool, True, True),
        (str, "a", "a"),
        (Path, "a", Path("a")),
        (Role, "prefill", Role.PREFILL),
        (Literal["a", 2], 2, 2),
        (float | None, None, None),
        (float | None, "none", None),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[Adapter, ...], [{"name": "x", "rank": 2}], (Adapter("x", 2),)),
        (dict[str, tuple[int, ...]], {"a": [1]}, {"a": (1,)}),
    ],
)
def test_values(hint: Any, given: object, value: object) -> None:
    made = from_value(hint, given)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("hint", "given"),
    [
        (int, "1"),
        (int, True),
        (int, 1.5),
        (int, None),
        (float, "1"),
        (float, False),
        (float, float("nan")),
        (bool, 1),
        (str, 1),
        (tuple[int, ...], 1),
        (tuple[int, ...], "1,2"),
        (dict[str, int], [1]),
        (Adapter, 1),
        (Literal[1, 2], True),
        (Role, 1),
    ],
)
def test_values_of_another_type_are_refused(hint: Any, given: object) -> None:
    with pytest.raises(CastError) as caught:
        from_value(hint, given)
    assert caught.value.rule == describe(hint)


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"nam": "x"}, "Adapter has no field 'nam'; did you mean name?"),
        ({"name": 1}, "name must be text"),
        ({}, "name"),
        ({"name": "x", "rank": 0}, "rank must be 1 or more"),
    ],
)
def test_a_table_in_a_list_says_what_is_wrong_with_it(table: dict[str, object], rule: str) -> None:
    with pytest.raises(CastError) as caught:
        from_value(tuple[Adapter, ...], [table])
    assert rule in caught.value.rule
    assert caught.value.whole
