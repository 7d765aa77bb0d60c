"""The fused sampler chooses what the plain definition chooses: on the GPU, else in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from tests.gpu.device import CUDA, DEVICE, QUIET
from torch import Tensor

from baton.sampling.fused import BLOCK, sample
from baton.sampling.noise import gumbel

CLOSE = 2e-4
"""Two candidates closer than this may swap on the GPU, whose fast logarithm differs in the last bits."""

pytestmark = QUIET


def plain(logits: Tensor, temperatures: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """What decides: [M, V] float32."""
    inverse = torch.where(temperatures > 0, 1 / temperatures, torch.ones_like(temperatures))
    noise = gumbel(seeds, positions, logits.shape[1])
    return logits.float() * inverse[:, None] + torch.where(temperatures[:, None] > 0, noise, 0.0)


def rows(count: int, vocab: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(count * vocab)
    logits = (3 * torch.randn(count, vocab, generator=chance)).to(dtype)
    temperatures = 0.3 + torch.rand(count, generator=chance)
    temperatures[::3] = 0
    seeds = torch.randint(-(2**63), 2**63 - 1, (count,), generator=chance)
    positions = torch.randint(0, 2**20, (count,), generator=chance, dtype=torch.int32)
    return logits.to(DEVICE), temperatures.to(DEVICE), seeds.to(DEVICE), positions.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("count", "vocab"), [(1, 3 * BLOCK + 7), (2, 100), (5, 2 * BLOCK), (3, 4 * BLOCK + 16), (40, BLOCK + 1)]
)
@pytest.mark.parametrize("pdl", [False, True] if CUDA else [False])
def test_the_same_tokens_as_the_definition(count: int, vocab: int, dtype: torch.dtype, pdl: bool) -> None:
    case = rows(count, vocab, dtype)
    values = plain(*case)
    got = sample(*case, pdl=pdl)
    assert got.dtype == torch.int64
    if CUDA:
        best = values.max(1).values
        assert bool((best - values.gather(1, got[:, None])[:, 0] < CLOSE).all())
        assert int((got != values.argmax(1)).sum()) <= count // 10
    else:
        assert torch.equal(got, values.argmax(1))


def test_greedy_takes_the_lowest_of_the_best() -> None:
    logits = torch.zeros(3, 4 * BLOCK, device=DEVICE)
    logits[0, [700, 701, 3 * BLOCK]] = 2.0
    logits[1, [2 * BLOCK + 5, 3 * BLOCK + 5]] = 1.0
    nothing = torch.zeros(3, device=DEVICE)
    got = sample(logits, nothing, nothing.long(), nothing.int())
    assert got.tolist() == [700, 2 * BLOCK + 5, 0]


def test_forbidden_tokens_are_never_chosen() -> None:
    logits = torch.full((60, 300), float("-inf"), device=DEVICE)
    allowed = torch.arange(60, device=DEVICE) * 5
    logits[torch.arange(60, device=DEVICE), allowed] = -1000.0
    ones = torch.ones(60, device=DEVICE)
    got = sample(logits, ones, torch.arange(60, device=DEVICE), ones.int())
    assert torch.equal(got, allowed)


def test_a_row_of_nothing_still_gives_a_token() -> None:
    for hopeless in (float("-inf"), float("nan")):
        logits = torch.full((2, 2 * BLOCK + 3), hopeless, device=DEVICE)
        temperatures = torch.tensor([0.0, 1.0], device=DEVICE)
        got = sample(logits, temperatures, temperatures.long(), temperatures.int())
        assert bool(((got >= 0) & (got < logits.shape[1])).all())


def test_the_answer_goes_where_asked_and_strides_are_respected() -> None:
    logits, temperatures, seeds, positions = rows(4, 500, torch.float32)
    wide = torch.full((4, 640), 1e9, device=DEVICE)
    wide[:, :500] = logits
    out = torch.full((4,), -1, dtype=torch.int64, device=DEVICE)
    got = sample(wide[:, :500], temperatures, seeds, positions, out=out)
    assert got is out
    assert torch.equal(out, sample(logits, temperatures, seeds, positions))


def test_no_rows() -> None:
    assert sample(*(part[:0] for part in rows(1, 50, torch.float32))).shape == (0,)


def test_sampling_follows_the_softmax() -> None:
    draws, vocab, temperature = (20_000, 40, 0.7) if CUDA else (300, 6, 0.7)
    logits = torch.linspace(-1.5, 1.5, vocab, device=DEVICE).expand(draws, vocab)
    temperatures = torch.full((draws,), temperature, device=DEVICE)
    seeds = torch.full((draws,), 77, device=DEVICE)
    positions = torch.arange(draws, dtype=torch.int32, device=DEVICE)
    counts = torch.bincount(sample(logits, temperatures, seeds, positions).cpu(), minlength=vocab).double()
    expected = (logits[0].cpu().double() / temperature).softmax(0) * draws
    chi_square = float(((counts - expected).square() / expected).sum())
    assert chi_square < vocab - 1 + 5 * math.sqrt(2 * (vocab - 1))
