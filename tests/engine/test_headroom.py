"""How much room admission leaves for running sequences: less while all goes well, more after trouble."""

from __future__ import annotations

from baton.core.types import Request
from baton.engine.headroom import FAR, LEAST, START, Headroom
from baton.engine.sequence import Sequence


def sequence(known: int, limit: int) -> Sequence:
    return Sequence(Request(id="r", token_ids=(1,) * known), 0, limit, frozenset())


def test_a_share_of_what_is_outstanding() -> None:
    headroom = Headroom()
    assert headroom.tokens([]) == 0
    assert headroom.tokens([sequence(10, 110), sequence(5, 5)]) == int(100 * START)


def test_what_is_far_away_is_not_reserved() -> None:
    assert Headroom().tokens([sequence(1, 10_000_000)]) == int(FAR * START)


def test_it_shrinks_slowly_to_a_least_share() -> None:
    headroom = Headroom()
    shares = []
    for _ in range(2000):
        headroom.eased()
        shares.append(headroom.share)
    assert shares == sorted(shares, reverse=True)
    assert shares[99] > 0.8 * START and shares[-1] == LEAST


def test_a_retraction_raises_it_at_once_and_never_beyond_all() -> None:
    headroom = Headroom()
    for _ in range(2000):
        headroom.eased()
    headroom.retracted()
    assert headroom.share >= 2 * LEAST
    for _ in range(10):
        headroom.retracted()
    assert headroom.share == 1.0
    assert headroom.tokens([sequence(1, 101)]) == 100
