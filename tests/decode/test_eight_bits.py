"""Hand-overs of pages in eight bits: the tokens that the same rounding gives, and a quarter of float32's bytes."""

from __future__ import annotations

import asyncio
from typing import Any

from tests import rounded
from tests.checkpoints import Make
from tests.decode.pods import running
from tests.decode.test_handoff import GREEDY, marks, prompts

from baton.decode.receiver import introduction
from baton.engine.config import EngineConfig
from baton.engine.worker import Worker
from baton.protocol.pods import Hello, unfit

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


def test_pods_that_keep_other_numbers_do_not_pair(checkpoint: Make) -> None:
    async def hello(kind: Any) -> Hello:
        config = EngineConfig(
            model=str(checkpoint("qwen3").directory), handover=True, pages=64, threads=1, kv_cache_dtype=kind
        )
        async with Worker(config) as worker:
            return introduction(worker, "prefill")

    async def check() -> None:
        wide, small, alias = await asyncio.gather(*map(hello, ("auto", "fp8", "fp8_e4m3")))
        assert "kv_cache_dtype" in unfit(wide, small) and "kv_cache_dtype" in unfit(small, wide)
        assert unfit(small, alias) == ""

    asyncio.run(check())
