"""The noise is uniform where it must be, tied to its row alone, and draws from the softmax."""

from __future__ import annotations

import math

import pytest
import torch

from baton.sampling.noise import gumbel, random_bits

ROWS, VOCAB = 64, 2**16
PINNED = [[120365596, 907365197, 2429317145, 1375306135], [3374547791, 3938882137, 2760057618, 1943328644]]


@pytest.fixture(scope="module")
def bits() -> torch.Tensor:
    """64 rows as a serving batch has them: few seeds, neighbouring positions."""
    seeds = torch.tensor([0, 1, 2**40, -1]).repeat_interleave(16)
    positions = torch.arange(16, dtype=torch.int32).repeat(4)
    return random_bits(seeds, positions, VOCAB)


def sigmas(share: torch.Tensor, expected: float, count: int) -> float:
    """How many standard deviations the worst share is off."""
    return float((share - expected).abs().max() / math.sqrt(expected * (1 - expected) / count))


def test_the_definition_stays(bits: torch.Tensor) -> None:
    """Seeded answers depend on these numbers."""
    some = random_bits(torch.tensor([42, -7]), torch.tensor([0, 1000], dtype=torch.int32), 4)
    assert some.tolist() == PINNED
    assert int(bits.min()) >= 0 and int(bits.max()) < 2**32


def test_every_bit_is_fair_and_independent_of_its_neighbour(bits: torch.Tensor) -> None:
    some = bits[::4]
    for i in range(32):
        assert sigmas((some >> i & 1).double().mean(), 0.5, some.numel()) < 4.5
        assert sigmas((some >> i & 1 ^ some >> (i + 1) % 32 & 1).double().mean(), 0.5, some.numel()) < 4.5


def test_values_fill_the_range_evenly(bits: torch.Tensor) -> None:
    for shift in (24, 0):  # the high byte, then the low one
        counts = torch.bincount((bits >> shift & 255).flatten(), minlength=256).double()
        chi_square = float((counts - counts.mean()).square().sum() / counts.mean())
        assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


def test_entries_rows_and_positions_are_independent(bits: torch.Tensor) -> None:
    flips = (bits ^ bits.roll(1, dims=1)).flatten()
    assert sigmas((flips >> 31).double().mean(), 0.5, flips.numel()) < 4.5
    centred = bits.double() - 2.0**31
    correlation = (centred @ centred.T) / centred.square().mean() / VOCAB - torch.eye(ROWS)
    assert float(correlation.abs().max()) < 5 / math.sqrt(VOCAB)
    for row in range(1, ROWS):  # a row is no shifted or permuted copy of the first
        assert len(set(bits[0, :512].tolist()) & set(bits[row].tolist())) <= 2


def test_no_two_rows_share_their_bits() -> None:
    seeds = torch.arange(512).repeat_interleave(8)
    positions = torch.arange(8, dtype=torch.int32).repeat(512)
    first = random_bits(seeds, positions, 2)
    assert len(torch.unique(first[:, 0] << 31 ^ first[:, 1])) == len(seeds)


def test_noise_is_gumbel() -> None:
    noise = gumbel(torch.arange(64), torch.zeros(64, dtype=torch.int32), VOCAB)
    assert noise.dtype == torch.float32
    assert bool(torch.isfinite(noise).all())
    count = noise.numel()
    assert abs(float(noise.double().mean()) - 0.5772157) < 4.5 * math.sqrt(math.pi**2 / 6 / count)
    assert abs(float(noise.double().var()) - math.pi**2 / 6) < 0.02
    for threshold in (-1.0, 0.0, 1.0, 3.0, 8.0, 12.0):
        expected = 1 - math.exp(-math.exp(-threshold))
        assert sigmas((noise > threshold).double().mean(), expected, count) < 4.5


def test_the_tail_that_decides_is_fine_grained() -> None:
    """The largest of a row's values never tie, though there are only 2**32 of them."""
    noise = gumbel(torch.arange(64), torch.zeros(64, dtype=torch.int32), VOCAB)
    best = noise.topk(2, dim=1).values
    assert bool((best[:, 0] > best[:, 1]).all())
    assert len(torch.unique(best[:, 0])) >= 63


def test_a_row_does_not_depend_on_its_batch() -> None:
    seeds, positions = torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3], dtype=torch.int32)
    alone = gumbel(seeds[1:2], positions[1:2], 1000)
    assert torch.equal(gumbel(seeds, positions, 1000)[1:2], alone)
    assert torch.equal(gumbel(seeds, positions, 2000)[1:2, :1000], alone)


def test_sampling_follows_the_softmax() -> None:
    draws, temperature = 20_000, 0.7
    logits = torch.linspace(-2, 2, 24)
    noise = gumbel(torch.full((draws,), 9), torch.arange(draws, dtype=torch.int32), 24)
    counts = torch.bincount((logits / temperature + noise).argmax(1), minlength=24).double()
    expected = (logits.double() / temperature).softmax(0) * draws
    chi_square = float(((counts - expected).square() / expected).sum())
    assert chi_square < 23 + 5 * math.sqrt(2 * 23)
