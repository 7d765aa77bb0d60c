from __future__ import annotations

import pytest

from baton.lending import Rates, worth_reading

H200 = Rates(page_bytes=2_359_296, page_tokens=16, tokens_per_s=40_000, bytes_per_s=180e9)
CPU = Rates(page_bytes=8192, page_tokens=16, tokens_per_s=5_000, bytes_per_s=0.5e9)


def replaced(rates: Rates, **changes: float) -> Rates:
    return Rates(**{name: changes.get(name, getattr(rates, name)) for name in Rates.__slots__})


def test_a_few_pages_are_computed_and_many_are_read() -> None:
    """2 ms of asking against 0.27 ms of computing a page: some ten pages pay for it."""
    assert 5 <= worth_reading(H200) <= 12
    assert worth_reading(CPU) == 1


def test_never_over_a_path_that_is_slower_than_computing() -> None:
    assert worth_reading(replaced(H200, bytes_per_s=0.5e9, tokens_per_s=40_000)) == 0


@pytest.mark.parametrize("unknown", ["tokens_per_s", "bytes_per_s"])
def test_never_on_figures_that_nobody_measured(unknown: str) -> None:
    assert worth_reading(replaced(H200, **{unknown: 0})) == 0
