"""The sampler by kernels gives what it gives by its definition: on the GPU, else in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.gpu.device import CUDA, DEVICE, QUIET

from baton.core.types import SamplingParams
from baton.sampling.drawing import ByDefinition, ByKernels
from baton.sampling.filtered import choose
from baton.sampling.fresh import Fresh
from baton.sampling.fused import sample
from baton.sampling.masks import Masks
from baton.sampling.places import Places
from baton.sampling.rows import SamplingRows
from baton.sampling.sampler import Sampler

VOCAB = 150
WAYS: list[dict[str, object]] = [
    {},
    {"temperature": 0.0},
    {"top_p": 0.8},
    {"temperature": 0.0, "repetition_penalty": 1.5},
    {"top_k": 5, "top_p": 0.9, "presence_penalty": 0.4},
    {"min_p": 0.1, "temperature": 0.7},
    {"logprobs": 3},
    {"top_k": 3, "logprobs": 0},
    {"logit_bias": ((3, 4.0),), "top_p": 0.5},
    {"min_tokens": 9, "max_tokens": 20},
]

pytestmark = QUIET


class Batch:
    def __init__(self, count: int) -> None:
        tokens = np.asarray([1, 2, 3, 4], dtype=np.int32)
        self.fresh = [
            Fresh(2 * i, SamplingParams(seed=i, **WAYS[i % len(WAYS)]), (5,), 2, tokens, -1)  # type: ignore[arg-type]
            for i in range(count)
        ]
        rows = np.asarray([one.row for one in self.fresh], dtype=np.int32)
        at = np.full(count, 4, dtype=np.int32)
        self.places = Places(torch.from_numpy(rows).to(DEVICE), torch.from_numpy(at).to(DEVICE), rows, at)
        chance = torch.Generator().manual_seed(count)
        self.logits = (2 * torch.randn(count, VOCAB, generator=chance)).bfloat16().to(DEVICE)
        self.kept = torch.rand(count, VOCAB, generator=chance) < 0.5

    def rows(self) -> SamplingRows:
        made = SamplingRows(2 * len(self.fresh), VOCAB, DEVICE)
        made.take(tuple(self.fresh))
        return made

    def masks(self, lines: range) -> Masks:
        bits = np.packbits(self.kept.numpy()[list(lines)], axis=1, bitorder="little")
        return Masks(np.asarray(lines, dtype=np.int32), np.pad(bits, ((0, 0), (0, -bits.shape[1] % 4))))


@pytest.mark.parametrize("masked", [range(0), range(0, 20, 3), range(20)], ids=["none", "some", "all"])
@pytest.mark.parametrize("known", [False, True])
def test_both_ways_give_the_same(masked: range, known: bool) -> None:
    batch = Batch(20)
    masks = batch.masks(masked) if masked else None
    by_definition, by_kernels = batch.rows(), batch.rows()
    wanted = Sampler(by_definition, ByDefinition(by_definition)).sample(batch.logits, batch.places, masks)
    sampler = Sampler(by_kernels, ByKernels(by_kernels))
    sampler.warm(batch.logits.dtype)
    of_lines = by_kernels.temperature[batch.places.rows], by_kernels.seeds[batch.places.rows]
    drawn = sample(batch.logits, *of_lines, batch.places.positions)  # as graphs do
    every, numbers = torch.arange(20, dtype=torch.int32, device=DEVICE), by_kernels.numbers
    choose(batch.logits, every, batch.places.rows, numbers, by_kernels.seeds, batch.places.positions, drawn)
    before = drawn.clone()
    got = sampler.sample(batch.logits, batch.places, masks, drawn if known else None)
    assert torch.equal(drawn, before), "it belongs to the graph"
    differ = int((got.tokens != wanted.tokens).sum())
    assert differ <= (1 if CUDA else 0), (got.tokens, wanted.tokens)
    assert wanted.logprobs is not None and got.logprobs is not None
    same = got.tokens == wanted.tokens
    assert torch.allclose(got.logprobs[same], wanted.logprobs[same], atol=1e-5)
    if not differ:
        assert by_definition.counts is not None and by_kernels.counts is not None
        assert torch.equal(by_definition.counts, by_kernels.counts)
