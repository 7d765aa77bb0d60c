"""Arriving sequences that end, or lose their writer, at odd moments: nothing is left, nothing is missing."""

from __future__ import annotations

import pytest
from tests.checkpoints import Make
from tests.engine.inline import Inline
from tests.engine.test_scheduler import engine, request

from baton.core.errors import QueueFull
from baton.core.types import Request, SamplingParams
from baton.protocol.engine import Update
from baton.tokens.identity import page_identities


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


@pytest.mark.parametrize("landed", [0, 3])
def test_every_position_is_scored_where_a_prompt_is_finished_that_had_landed_in_part(
    landed: int, checkpoint: Make
) -> None:
    """Its scores would have come with the first token, and that was lost with its writer."""
    prompt = [(7 * i) % 101 for i in range(30)]
    asked = SamplingParams(max_tokens=3, temperature=0.0, prompt_logprobs=1, ignore_eos=True)
    with Inline(checkpoint("qwen3").directory, page_size=4) as served:
        ((want, *_),) = served.generate([prompt], asked)
    with Inline(checkpoint("qwen3").directory, page_size=4) as served:
        decode = served.engine
        identities = page_identities(prompt, 4)
        decode.intake.ask(
            Request(id="r", token_ids=tuple(prompt), sampling=asked, identities=identities), "a"
        )
        (reserved,) = decode.step().reserved
        decode.intake.progress(reserved.attempt, landed)
        decode.intake.local("r")
        updates: list[Update] = []
        while decode.scheduler.running or not updates:
            updates += decode.step().updates
        assert want.scores is not None and updates[0].scores is not None
        assert [one.token_id for one in updates[0].scores] == prompt[1:]
        decode.intake.over(reserved.attempt)
        served.built.scheduler.check_integrity()


def test_requests_that_wait_for_room_are_refused_beyond_the_queues_bound() -> None:
    decode = engine(pages=16, max_queued=2)
    decode.intake.ask(request("runs", list(range(56)), 4), "first")
    assert decode.step().reserved
    for id in ("waits", "waits too"):
        decode.intake.ask(request(id, list(range(1, 57)), 4), id)
    assert decode.step().reserved == [] and decode.load().waiting == 2
    with pytest.raises(QueueFull, match="max_queued"):
        decode.intake.ask(request("one too many", list(range(2, 58)), 4), "last")
    with pytest.raises(QueueFull, match="max_queued"):
        decode.submit(request("nor here", [1, 2], 4))
    assert "one too many" not in decode.scheduler.sequences


def test_a_prompt_that_came_to_nothing_elsewhere_keeps_its_place_in_the_queue() -> None:
    decode = engine(max_running=1)
    decode.intake.ask(request("first", list(range(40)), 4), "attempt")
    assert decode.step().reserved
    for id in ("second", "third"):
        decode.submit(request(id, [1, 2, 3], 4))
    decode.intake.local("first")
    decode.intake.over("attempt")
    told: list[str] = []
    while not decode.idle:
        told += [update.id for update in decode.step().updates if update.finish is not None]
    assert told == ["first", "second", "third"]
