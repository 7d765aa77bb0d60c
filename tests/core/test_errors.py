"""The error tree: the drawing is the truth, and every class has its facts."""

from __future__ import annotations

import re

import pytest

from baton.core import errors
from baton.core.errors import BatonError, InvalidSetting, Refused


def _all(root: type[BatonError]) -> list[type[BatonError]]:
    return [root, *(below for child in root.__subclasses__() for below in _all(child))]


CLASSES = [one for one in _all(BatonError) if one.__module__ == errors.__name__]


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line):
            above[len(match[1]) // 4 :] = [match[2]]
            drawn.append((above[-2] if len(above) > 1 else "Exception", match[2]))
    assert sorted(drawn) == sorted((one.__base__.__name__, one.__name__) for one in CLASSES if one.__base__)


@pytest.mark.parametrize("error", CLASSES, ids=lambda one: one.__name__)
def test_every_error_has_a_word_and_a_status(error: type[BatonError]) -> None:
    assert re.fullmatch(r"[a-z_]+", error.code)
    assert 400 <= error.status < 600


def test_what_is_refused_may_be_tried_again() -> None:
    assert all(one.retryable for one in CLASSES if issubclass(one, Refused))


def test_a_wrong_setting_names_itself() -> None:
    error = InvalidSetting("cache.page_size", "must be a power of two")
    assert (error.setting, str(error)) == ("cache.page_size", "cache.page_size: must be a power of two")
