"""Hand-overs of eight-bit pages: the tokens that the same rounding gives, a quarter of float32's bytes."""

from __future__ import annotations

import asyncio

from tests import rounded
from tests.checkpoints import Make
from tests.decode.pods import running
from tests.decode.test_handoff import GREEDY, marks, prompts

FLOAT32_PAGE = 2 * 3 * 2 * 16 * 16 * 4
"""Bytes: K and V of 3 layers, 2 heads, 16 tokens of 16 numbers."""


def test_a_prompt_computed_by_two_ranks_goes_on_in_one_as_if_it_were_one_engine(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    asked = prompts(8)
    want = [rounded.greedy(made.model, prompt, GREEDY.max_tokens or 0) for prompt in asked]

    async def check() -> None:
        async with running(made.directory, prefill_ranks=[2], decode_ranks=1, kv_cache_dtype="fp8") as pods:
            assert await pods.generate(asked, GREEDY) == want
            assert {"chunk landed", "landed", "merged"} <= marks(pods), "nothing was handed over"
            assert await pods.generate(asked, GREEDY) == want, "cached on both sides"
            facts = pods.decode.facts
            assert facts is not None and facts.page_bytes * 4 == FLOAT32_PAGE
            longest = max(pods.timelines.values(), key=lambda one: one.handed)
            assert longest.handed % facts.page_bytes == 0
            assert 0 < longest.handed <= -(-max(map(len, asked)) // 16) * facts.page_bytes
            await pods.settled()
            assert not pods.handoffs.failures

    asyncio.run(check())
