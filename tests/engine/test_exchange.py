"""Rank 0's book of hand-overs: what its ranks are told of attempts."""

from __future__ import annotations

from tests.engine.test_scheduler import engine, request

from baton.engine.exchange import Exchange
from baton.protocol import engine as wire


def test_ranks_listen_for_a_second_attempt_for_as_long_as_it_may_take() -> None:
    """Not for some time of their own: what lands later than they listen is never seen to land."""
    decode = engine()
    commands: list[wire.ToRank] = []
    exchange = Exchange(decode, 1, commands.append)
    exchange.ask(wire.Ask(request("r", list(range(40)), 4), "one", "first", 300.0, 0))
    assert [made.attempt for made in exchange.reserved(decode.step().reserved)] == ["one"]
    exchange.over("one")
    exchange.retry(wire.Retry("r", "two", "second", 200.0))
    assert [made.attempt for made in exchange.reserved(decode.step().reserved)] == ["two"]
    assert commands == [
        wire.Expect("one", "first", 300.0), wire.Forget("one"), wire.Expect("two", "second", 200.0)
    ]  # fmt: skip


def test_an_attempt_that_is_over_before_its_pages_were_told_of_is_passed_over() -> None:
    """All of it comes between two steps: another pod was to be asked, and the client left."""
    decode = engine()
    exchange = Exchange(decode, 1, lambda command: None)
    exchange.ask(wire.Ask(request("r", list(range(40)), 4), "one", "first", 300.0, 0))
    exchange.reserved(decode.step().reserved)
    exchange.over("one")
    exchange.retry(wire.Retry("r", "two", "second", 200.0))
    decode.intake.abort("r")
    exchange.over("two")
    assert exchange.reserved(decode.step().reserved) == []
    assert decode.idle and "0 attempts asked for" in repr(exchange)
    decode.scheduler.check_integrity()
