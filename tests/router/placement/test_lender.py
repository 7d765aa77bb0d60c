from __future__ import annotations

from baton.router.placement import Decision, Query, lender


def query(**held: int) -> Query:
    return Query(prompt_tokens=200, page_size=16, held=held)


def decision(*prefill: str, decode: int = 0, computer: int = 0) -> Decision:
    return Decision(
        decode="d0", prefill=prefill, computes=prefill[0] if prefill else "d0", computed_tokens=10,
        predicted_ttft_s=0.1, cached_decode=decode * 16, cached_prefill=computer * 16,
    )  # fmt: skip


def test_a_third_pod_that_holds_more_is_named() -> None:
    assert lender(query(d1=9, p0=2), decision("p0", computer=2)) == "d1"
    assert lender(query(p1=9, d0=3), decision(decode=3)) == "p1"


def test_nobody_is_when_the_chosen_ones_hold_as_much() -> None:
    assert lender(query(d0=9, d1=9), decision("p0", decode=9)) == ""
    assert lender(query(p0=9, d1=9), decision("p0", computer=9)) == ""
    assert lender(query(), decision("p0")) == ""


def test_what_cannot_be_used_of_a_longer_prefix_does_not_count() -> None:
    """The last token is computed in any case, so twelve pages are all of it."""
    assert lender(query(d0=12, d1=13), decision("p0", decode=12)) == ""
