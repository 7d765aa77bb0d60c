"""Steps whose model runs in stretches between attention: the tokens of transformers all the same.

A CPU captures nothing, so a stretch is carried out anew at every replay, over the same static buffers:
layout, padding, what crosses from one stretch to the next, and the choice of what goes this way are the
real ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.checkpoints import Make
from tests.engine.inline import Inline
from tests.engine.test_exact import GREEDY, TOKENS, Reference, prompts, reference
from tests.engine.test_lines import ASKED, with_lines
from torch import Tensor

from baton.attention.base import Spans
from baton.core.types import SamplingParams
from baton.engine.stretches import Stretches, counts

__all__ = ["reference"]


class Uncaptured(Stretches):
    """Counts steps by kind."""

    prefills = decodes = mixed = padded = 0
    size = ending = 0
    """Of the last step, and of what ran behind its last attention."""
    endings: tuple[int, ...] = ()
    """Of all."""

    def forward(self, ids: Tensor, spans: Spans, wanted: Tensor | None = None) -> Tensor:
        self.prefills += spans.prefills == len(spans.rows)
        self.decodes += spans.prefills == 0
        self.mixed += 0 < spans.prefills < len(spans.rows)
        self.padded += len(ids) not in self.sizes
        found = super().forward(ids, spans, wanted)
        self.endings += (self.ending,)
        return found

    def _replay(self, size: int, number: int) -> None:
        if number == 0:
            self.size, self.ending = size, 0
        elif number == len(self.decoder.layers):
            self.ending = size
        self._run(size, number)


def with_stretches(served: Inline, *sizes: int) -> Uncaptured:
    its = served.built.runner
    its.stretches = Uncaptured(its.decoder, its.attention, its.pool, its.table, list(sizes))
    return its.stretches


@pytest.mark.parametrize(
    ("name", "overlap"),
    [
        ("qwen3", True),
        ("qwen3", False),
        ("llama-linear-biased", True),
        ("qwen2-window", False),
        ("qwen3-moe", True),
    ],
)
def test_stretches_say_what_transformers_says(
    name: str, overlap: bool, checkpoint: Make, reference: Reference
) -> None:
    made = checkpoint(name)
    want = reference(name, made)
    with Inline(made.directory, overlap=overlap, prefill_budget=60) as served:
        stretches = with_stretches(served, 16, 32, 64)
        for _ in range(2):  # the second time cached
            assert served.tokens(prompts(), GREEDY) == want
        assert stretches.prefills > 30 and stretches.decodes > 10 and stretches.padded > 30
    chunked: dict[str, Any] = {"prefill_budget": 24, "mixed": True, "page_size": 4, "max_model_len": 256}
    with Inline(made.directory, overlap=overlap, **chunked) as served:
        stretches = with_stretches(served, 16, 100)
        for _ in range(2):
            assert served.tokens(prompts(), GREEDY) == want
        assert stretches.mixed > 30 and stretches.padded > 30


@pytest.mark.parametrize("settings", [{"kv_cache_dtype": "fp8"}, {"quantization": "fp8"}])
def test_eight_bits_are_the_same_as_without(settings: dict[str, Any], checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    answers = []
    for on in (False, True):
        with Inline(made.directory, prefill_budget=60, **settings) as served:
            stretches = with_stretches(served, 64) if on else None
            answers.append(served.tokens(prompts()[:12], GREEDY))
            assert stretches is None or stretches.padded > 5
    assert answers[0] == answers[1]


def test_whatever_is_asked_of_a_step(checkpoint: Make) -> None:
    """Draws, penalties, log-probabilities, scores: the same with stretches as without."""
    made = checkpoint("qwen3")
    some = prompts()[: len(ASKED)]
    answers = []
    for on in (False, True):
        with Inline(made.directory, prefill_budget=40, mixed=True) as served:
            stretches = with_stretches(served, 32, 64) if on else None
            told = [served.generate([prompt], [one]) for prompt, one in zip(some, ASKED, strict=True)]
            told += [served.generate(some, ASKED)]
            answers.append([update for one in told for updates in one for update in updates])
            assert stretches is None or (stretches.prefills and stretches.mixed and stretches.decodes)
    assert [u.token for u in answers[0]] == [u.token for u in answers[1]]
    logprobs = [[u.logprob.logprob for u in one if u.logprob is not None] for one in answers]
    scores = [[s.logprob for u in one for s in u.scores or ()] for one in answers]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4) and len(logprobs[0]) >= 2 * 2 * TOKENS
    assert scores[0] == pytest.approx(scores[1], abs=1e-4) and len(scores[0]) == 2 * (len(some[-1]) - 1)


def test_padding_writes_the_scratch_page_alone(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    one = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    with Inline(made.directory, pages=40) as served:
        stretches = with_stretches(served, 64)
        pool = served.built.runner.pool
        pool.copy_(torch.randn(pool.shape, generator=torch.Generator().manual_seed(1)))
        for prompt, written in (([5] * 60, [16, 16, 16, 12]), ([6] * 20, [16, 4])):
            before = pool.clone()
            served.tokens([prompt], one)
            slots = (pool != before).flatten(2, 3).any(-1).any(2).any(1)  # [page, slot]
            first = len(prompt) == 60
            assert slots[0].tolist() == [first] + [False] * 15, "position 0, the second time the same"
            assert [int(count) for count in slots[1:].sum(-1) if count] == written
        assert stretches.prefills == stretches.padded == 2


def test_more_tokens_than_were_captured_go_one_kernel_after_the_other(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    one = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    with Inline(made.directory, pages=300) as served:
        stretches = with_stretches(served, 16, 32)
        served.tokens([[5] * 32], one)
        assert (stretches.prefills, stretches.padded, stretches.size) == (1, 0, 32)
        served.tokens([[6] * 33], one)
        assert stretches.prefills == 1
        served.tokens([[7] * 15, [8] * 16], one)
        assert (stretches.prefills, stretches.padded, stretches.size) == (2, 1, 32), "together"
        served.tokens([[9] * 3], one)
        assert (stretches.prefills, stretches.padded, stretches.size) == (3, 2, 16)


def test_behind_the_last_attention_only_what_is_asked_for(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    one = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    with Inline(made.directory, pages=300, prefill_budget=40) as served:
        stretches = with_stretches(served, 8, 48)
        served.tokens([[5] * 30], one)
        assert (stretches.size, stretches.ending) == (48, 8), "the last token alone"
        served.tokens([[6] * 30], replace(one, prompt_logprobs=1))
        assert (stretches.size, stretches.ending) == (48, 48), "each is scored"
        served.tokens([[7] * 70], one)
        assert stretches.endings[2:] == (0, 8), "the first part of a prompt is asked for nothing"


def test_what_decode_graphs_do_not_take(checkpoint: Make) -> None:
    """Prompts to be scored, and those that are too long for lines but not for this."""
    made = checkpoint("qwen3")
    one = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    with Inline(made.directory, pages=300) as served:
        graphs, stretches = with_lines(served, 32), with_stretches(served, 16, 48)
        served.tokens([[5] * 16], one)
        assert (graphs.prompts, stretches.prefills) == (16, 0)
        served.tokens([[6] * 16], replace(one, prompt_logprobs=1))
        assert (graphs.prompts, stretches.prefills) == (16, 1)
        served.tokens([[7] * 40], one)
        assert (graphs.prompts, stretches.prefills) == (16, 2)
        served.tokens([[8] * 60], one)
        assert (graphs.prompts, stretches.prefills) == (16, 2), "neither"


def test_a_step_depends_on_no_step_before(checkpoint: Make) -> None:
    """Buffers full of what is not finite, which padding would carry into the scratch page."""
    made = checkpoint("qwen3")
    one = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    with Inline(made.directory, pages=40) as served:
        stretches = with_stretches(served, 64)
        for held in (stretches._queries, stretches._attended, stretches._residual):
            held.fill_(float("nan"))
        served.tokens([[6] * 20], one)
        assert bool(torch.isfinite(served.built.runner.pool).all())


@pytest.mark.parametrize("largest", [64, 100, 2048, 4000])
def test_what_is_captured(largest: int) -> None:
    found = counts(largest)
    assert found == sorted(set(found)) and found[-1] == largest
    usual = counts(largest, 56)
    assert usual == sorted({*found, 56}), "what mixed steps are filled up to needs no padding"
    assert counts(largest, 16384) == found
    for tokens in range(257, largest + 1):
        assert min(count for count in found if count >= tokens) <= tokens * 1.25
    assert len(counts(2048)) == 20
