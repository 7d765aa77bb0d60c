"""A writer that is late: its bytes reach the pool long after its hand-over was given up.

The decode engine is real (runner, pool, scheduler, intake) and so is the write: a NIXL transfer into the
pool's memory, posted after the request it was for is gone and another is being computed. What keeps
the other's tokens right is the fence alone, which the second test takes away to see the first one fail.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from tests.checkpoints import Make, checkpoint
from tests.engine.inline import Inline
from tests.transfer.side import Side, push

from baton.cache.pages import PageAllocator
from baton.core.types import Request, SamplingParams
from baton.protocol.engine import Update
from baton.transfer import Moved, Mover, Outcome, Span

__all__ = ["checkpoint"]

ROUNDS = 1000
PAGE = 4
VICTIM, OTHER = 22, 26
"""Tokens of the prompts: with the fence both find room, without it they would share pages."""
ANSWER = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)


class Unfenced(PageAllocator):
    """Gives pages back to whoever asks next, though somebody may still write them."""

    __slots__ = ()

    def fence(self, pages: Sequence[int]) -> None:
        self.give(pages)

    def release_fence(self, pages: Sequence[int]) -> None:
        return


class Late:
    """A decode engine whose pool a writer elsewhere has met, and the writer, who obeys only a gate."""

    def __init__(self, served: Inline, writer: Side) -> None:
        agent = served.built.agent
        assert agent is not None
        (layout,) = served.built.layouts
        self.engine, self.writer, self.target = served.engine, writer, agent.info().incarnation
        self.span = Span(0, 0, layout.kv_heads)
        writer.open("writer", layout)
        writer.meet("writer", agent.info())
        pool = writer.ranks["writer"].pool.view(np.float32)
        pool[:] = np.random.default_rng(0).normal(scale=3.0, size=pool.shape)

    def round(self, number: int, prompt: Sequence[int], chance: random.Random) -> list[int]:
        """The tokens of a request that is computed while the write of one given up lands."""
        engine, attempt, tokens = self.engine, f"attempt-{number}", []

        def step() -> None:
            tokens.extend(update.token for update in told(engine.step().updates, f"other-{number}"))

        victim = [chance.randrange(101) for _ in range(VICTIM)]
        engine.intake.ask(Request(id=f"victim-{number}", token_ids=tuple(victim), sampling=ANSWER), attempt)
        (reserved,) = engine.step().reserved
        gate = threading.Event()
        mine = range(1, 1 + len(reserved.pages))
        order = push(self.target, mine, reserved.pages, attempt=attempt, ready=gate.is_set, span=self.span)
        self.writer.move("writer", order)
        assert engine.intake.abort(f"victim-{number}") == attempt
        engine.submit(Request(id=f"other-{number}", token_ids=tuple(prompt), sampling=ANSWER))
        for _ in range(chance.randrange(1, 5)):
            step()
        gate.set()
        moved = self.writer.wait("writer", Moved)
        assert moved.outcome is Outcome.DONE, "nothing was written, so nothing was tested"
        while not engine.idle:
            step()
        engine.intake.over(attempt)
        engine.step()
        return [token for token in tokens if token is not None]


def told(updates: Sequence[Update], id: str) -> Iterator[Update]:
    return (update for update in updates if update.id == id and update.token is not None)


def wrong_rounds(served: Inline, rounds: int) -> int:
    """How many requests got other tokens than undisturbed."""
    chance = random.Random(5)
    prompts = [[chance.randrange(101) for _ in range(OTHER)] for _ in range(10)]
    want = served.tokens(prompts, ANSWER)
    agent, writer = served.built.agent, Side()
    assert agent is not None
    reader = Mover(agent, lambda report: None)
    reader.start()
    try:
        late = Late(served, writer)
        found = [late.round(i, prompts[i % 10], chance) != want[i % 10] for i in range(rounds)]
    finally:
        writer.close_all()
        reader.close()
    allocator = served.engine.scheduler.holdings.allocator
    assert allocator.free == allocator.total - 1 and allocator.fenced == 0
    return sum(found)


@pytest.fixture
def served(checkpoint: Make) -> Iterator[Inline]:
    made = Inline(
        checkpoint("qwen3").directory,
        page_size=PAGE,
        pages=18,
        max_model_len=64,
        cache="naive",
        handover=True,
    )
    with made:
        yield made


def test_a_late_writer_never_reaches_another_request(served: Inline) -> None:
    assert wrong_rounds(served, ROUNDS) == 0


def test_without_the_fence_it_does(served: Inline) -> None:
    holdings = served.engine.scheduler.holdings
    holdings.allocator = Unfenced(holdings.allocator.total)
    assert wrong_rounds(served, 40) > 10
