"""Requests of every kind through the real runner with too little room, some of them aborted."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints import Make
from tests.engine.inline import Careless, Inline

from baton.core.types import Request, SamplingParams
from baton.protocol.engine import Update
from baton.tokens.identity import page_identities

PAGE = 4
LONG = (pytest.mark.slow, pytest.mark.timeout(1800))


def asked(count: int) -> list[tuple[list[int], SamplingParams]]:
    chance = random.Random(17)
    common = [[chance.randrange(101) for _ in range(50)] for _ in range(4)]
    made = []
    for _ in range(count):
        prompt = chance.choice(common)[: chance.choice([0, 0, 8, 21, 50])]
        prompt = prompt + [chance.randrange(101) for _ in range(chance.choice([1, 3, 4, 12, 30]))]
        kind: dict[str, Any] = chance.choice(
            [
                {"temperature": 0.0},
                {"temperature": 0.8, "top_p": 0.9},
                {"top_k": 4, "logprobs": 2},
                {"presence_penalty": 1.0, "repetition_penalty": 1.2},
                {"prompt_logprobs": 1, "temperature": 0.0},
                {"min_tokens": 3, "stop_token_ids": tuple(range(0, 101, 7))},
            ]
        )
        most = chance.choice([3, 6, 10, 30])
        made.append((prompt, SamplingParams(max_tokens=most, seed=chance.randrange(2**64), **kind)))
    return made


def request(i: int, prompt: list[int], sampling: SamplingParams) -> Request:
    identities = page_identities(prompt, PAGE)
    return Request(
        id=f"r{i}", token_ids=tuple(prompt), identities=identities, sampling=sampling, priority=i % 3
    )


def undisturbed(model: Path, count: int) -> list[list[Update]]:
    with Inline(model, page_size=PAGE, pages=8000, overlap=False, max_queued=count) as served:
        return served.generate([prompt for prompt, _ in asked(count)], [one for _, one in asked(count)])


@dataclass
class Disturbed:
    updates: dict[str, list[Update]]
    aborted: set[str]
    retractions: int


def disturbed(served: Inline, count: int, chance: random.Random) -> Disturbed:
    """The same requests, arriving while others run, some of them aborted, in too little room."""
    engine, scheduler = served.engine, served.engine.scheduler
    scheduler.headroom = Careless()
    found = Disturbed({f"r{i}": [] for i in range(count)}, set(), 0)

    def step() -> None:
        for update in engine.step().updates:
            found.updates[update.id].append(update)

    for i, (prompt, sampling) in enumerate(asked(count)):
        engine.submit(request(i, prompt, sampling))
        if chance.random() < 0.15 and scheduler.sequences:
            victim = chance.choice(sorted(scheduler.sequences))
            found.aborted.add(victim)
            engine.abort(victim)
        for _ in range(chance.choice([0, 1, 3])):
            step()
        while len(scheduler.waiting) > 40:
            step()
        if i % 100 == 0:
            scheduler.check_integrity()
    while not engine.idle:
        step()
    found.retractions = scheduler.retractions
    return found


def assert_nothing_is_left(served: Inline) -> None:
    scheduler = served.engine.scheduler
    scheduler.check_integrity()
    assert not scheduler.sequences
    holdings = scheduler.holdings
    assert holdings.cache.evictable == holdings.cache.pages, "a lock is left"
    holdings.allocator.give(holdings.cache.evict(holdings.cache.pages))
    assert holdings.allocator.free == holdings.allocator.total - 1 and holdings.cache.pages == 0


@pytest.mark.parametrize(
    ("policy", "count"),
    [
        ("priority", 300),
        ("dfs-weight", 300),
        pytest.param("priority", 10_000, marks=LONG),
        pytest.param("dfs-weight", 10_000, marks=LONG),
    ],
)
def test_what_survives_is_undisturbed_and_nothing_is_left(policy: str, count: int, checkpoint: Make) -> None:
    model = checkpoint("qwen3").directory
    settings: dict[str, Any] = {
        "page_size": PAGE, "pages": 45, "max_model_len": 112, "max_running": 10, "prefill_budget": 24,
        "mixed": policy == "priority", "policy": policy,
    }  # fmt: skip
    with Inline(model, **settings) as served:
        found = disturbed(served, count, random.Random(policy))
        assert_nothing_is_left(served)
    assert found.retractions > count // 20
    assert len(found.aborted) > count // 20
    for i, want in enumerate(undisturbed(model, count)):
        got = found.updates[f"r{i}"]
        assert got[-1].finish is not None and not any(update.finish for update in got[:-1])
        ended = f"r{i}" in found.aborted and got[-1].finish == "abort"
        same(got[:-1] if ended else got, want[: len(got) - 1] if ended else want)


def same(got: list[Update], want: list[Update]) -> None:
    """Tokens and ends equal; log-probabilities to rounding."""
    assert [(u.token, u.finish) for u in got] == [(u.token, u.finish) for u in want]
    for one, other in zip(got, want, strict=True):
        entries = [*([one.logprob] if one.logprob else []), *(one.scores or ())]
        others = [*([other.logprob] if other.logprob else []), *(other.scores or ())]
        assert [e.token_id for e in entries] == [e.token_id for e in others]
        assert [e.logprob for e in entries] == pytest.approx([e.logprob for e in others], abs=1e-4)
