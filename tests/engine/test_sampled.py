"""A seeded sequence draws the same tokens whatever happens around it and to it, on the real runner."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.checkpoints import Make
from tests.engine.inline import Careless, Inline

from baton.core.types import SamplingParams

COUNT = 12


def prompts(count: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    common = [chance.randrange(101) for _ in range(40)]
    return [
        common[: chance.randrange(40)] + [chance.randrange(101) for _ in range(chance.randrange(1, 30))]
        for _ in range(count)
    ]


def seeded() -> list[SamplingParams]:
    """One of each kind of sampling."""
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.6, "top_p": 0.9},
        {"top_k": 5, "logprobs": 3},
        {"min_p": 0.1, "temperature": 1.5},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.8, "top_k": 20},
        {"repetition_penalty": 1.5, "temperature": 0.0},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "logprobs": 0},
        {"logit_bias": ((3, 4.0), (5, -4.0))},
        {"min_tokens": 20, "stop_token_ids": tuple(range(0, 101, 2)), "ignore_eos": False},
        {"temperature": 0.0},
        {"prompt_logprobs": 1},
    ]
    assert len(kinds) == COUNT
    return [
        SamplingParams(**{"max_tokens": 40, "ignore_eos": True, "seed": 2**63 + i, **kind})
        for i, kind in enumerate(kinds)
    ]


def strangers(count: int) -> list[SamplingParams]:
    chance = random.Random(count)
    return [
        SamplingParams(
            max_tokens=chance.randrange(1, 50), temperature=chance.choice([0.0, 0.7, 2.0]), ignore_eos=True,
            seed=chance.randrange(2**64), top_k=chance.choice([0, 3]), top_p=chance.choice([1.0, 0.5]),
            frequency_penalty=chance.choice([0.0, 1.0]), logprobs=chance.choice([None, 4]),
        )
        for _ in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(checkpoint: Make) -> list[list[int]]:
    """Each by itself, in an engine with all the room there is."""
    with Inline(checkpoint("qwen3").directory, overlap=False, cache="naive") as served:
        pairs = zip(prompts(COUNT, 1), seeded(), strict=True)
        return [served.tokens([prompt], one)[0] for prompt, one in pairs]


def test_sampling_is_not_greedy_in_disguise(alone: list[list[int]], checkpoint: Make) -> None:
    again = [SamplingParams(max_tokens=40, ignore_eos=True, seed=seed) for seed in (1, 2, 2)]
    with Inline(checkpoint("qwen3").directory) as served:
        one, two, same = served.tokens(prompts(COUNT, 1)[:1] * 3, again)
    assert len({tuple(one), tuple(two), tuple(alone[0])}) == 3
    assert two == same
    assert all(len(tokens) == 40 for i, tokens in enumerate(alone) if i != 9)
    assert len(alone[9]) > 20 and alone[9][-1] % 2 == 0 and not any(t % 2 == 0 for t in alone[9][:20])


SURROUNDINGS: dict[str, dict[str, Any]] = {
    "roomy": {},
    "without overlap": {"overlap": False},
    "without cache": {"cache": "naive"},
    "chunks among decodes": {"prefill_budget": 16, "mixed": True, "page_size": 1, "pages": 8000},
    "few rows": {"max_running": 3},
    "retraction": {"page_size": 4, "pages": 45, "max_model_len": 112},
    "retraction without overlap": {"page_size": 4, "pages": 45, "max_model_len": 112, "overlap": False},
    "retraction without cache": {"page_size": 4, "pages": 45, "max_model_len": 112, "cache": "naive"},
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_seed_decides_alone(name: str, alone: list[list[int]], checkpoint: Make) -> None:
    others = 30
    order = random.Random(name).sample(range(COUNT + others), COUNT + others)
    every = [*zip(prompts(COUNT, 1), seeded(), strict=True)]
    every += zip(prompts(others, 2), strangers(others), strict=True)
    mixed = [every[i] for i in order]
    with Inline(checkpoint("qwen3").directory, **SURROUNDINGS[name]) as served:
        if "retraction" in name:
            served.engine.scheduler.headroom = Careless()
        tokens = served.tokens([prompt for prompt, _ in mixed], [one for _, one in mixed])
        if "retraction" in name:
            assert served.engine.scheduler.retractions > 5
    for i, want in enumerate(alone):
        assert tokens[order.index(i)] == want, seeded()[i]
