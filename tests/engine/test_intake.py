"""Arriving sequences that end, or lose their writer, at odd moments: nothing is left, nothing is missing."""

from __future__ import annotations

from tests.engine.test_scheduler import engine, request


def test_a_request_that_is_aborted_as_its_first_token_ends_it_leaves_nothing_behind() -> None:
    """Both are taken in between two steps; its pages are still to come."""
    decode, prompt = engine(), list(range(21))
    decode.intake.ask(request("r", prompt, 1), "attempt")
    (reserved,) = decode.step().reserved
    decode.intake.first_token(reserved.attempt, 5, None, ())
    decode.intake.abort("r")
    decode.abort("r")
    decode.step()
    decode.intake.over(reserved.attempt)
    decode.step()
    decode.scheduler.check_integrity()
    assert decode.idle and decode.intake.open == 0 and not decode.intake.attempts
    assert decode.scheduler.holdings.allocator.fenced == 0
    decode.intake.ask(request("same prompt", prompt, 4), "another")
    assert decode.step().reserved, "it waits for what nobody computes"
