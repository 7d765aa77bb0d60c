"""What is said about unknown names."""

from __future__ import annotations

from baton.core.suggest import FEW, hint, nearest

KNOWN = ["cache.page_size", "cache.pages", "log.level"]


def test_a_misspelt_name_finds_the_right_one() -> None:
    assert nearest("cache.page_siez", KNOWN) == "cache.page_size"


def test_a_name_without_its_section_finds_it() -> None:
    assert nearest("level", KNOWN) == "log.level"


def test_nothing_near_is_nothing() -> None:
    assert nearest("zzz", KNOWN) is None


def test_the_hint_names_the_nearest_or_lists_a_few_or_says_nothing() -> None:
    assert hint("log.levle", KNOWN) == "; did you mean log.level?"
    assert hint("zzz", KNOWN) == "; known: cache.page_size, cache.pages, log.level"
    assert hint("zzz", [f"name{number}" for number in range(FEW + 1)]) == ""
    assert hint("zzz", []) == ""
