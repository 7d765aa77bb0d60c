"""Filters without a sort leave and draw what the definition does: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from tests.gpu.device import CUDA, DEVICE, QUIET
from torch import Tensor

from baton.sampling.filtered import SERVED, Sizes, choose
from baton.sampling.noise import gumbel

CLOSE = 2e-4
"""Two candidates closer than this may swap on the GPU, whose fast logarithm differs in the last bits."""
SMALL = Sizes(few=16, fewer=8, chunk=128, block=64, step=128, wide=64)
"""Few rows of few tokens then go every way that many do."""

pytestmark = QUIET


def stays(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which of [V] stay: written one token at a time, in double precision."""
    values = [value / temperature for value in logits.double().tolist()]
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    ranked = sorted(range(len(values)), key=lambda token: (-values[token], token))
    ranked = [token for token in ranked if weights[token] > 0 and weights[token] >= min_p * (1 - 1e-6)]
    ranked = ranked[:top_k] if top_k > 0 else ranked
    whole, before, kept = (
        sum(weights[token] for token in ranked),
        0.0,
        torch.zeros(len(values), dtype=torch.bool),
    )
    for token in ranked:
        if kept.any() and before >= top_p * whole:
            break
        kept[token] = True
        before += weights[token]
    return kept


class Case:
    """Rows of logits, each with filters of its own, some lines of which are to be drawn."""

    def __init__(self, logits: Tensor, filters: list[tuple[float, int, float, float]], seed: int = 0) -> None:
        count = len(logits)
        chance = torch.Generator().manual_seed(seed)
        self.logits = logits.to(DEVICE)
        self.filters = filters
        self.owners = torch.randperm(count + 3, generator=chance)[:count].int()
        self.numbers = torch.full((7, count + 3), float("nan"))
        self.numbers[:4, self.owners.long()] = torch.tensor(filters).T
        self.seeds = torch.randint(-(2**63), 2**63 - 1, (count + 3,), generator=chance)
        self.positions = torch.randint(0, 2**20, (count,), generator=chance, dtype=torch.int32)

    def drawn(self, lines: list[int] | None = None, sizes: Sizes = SERVED) -> list[int]:
        asked = list(range(len(self.logits))) if lines is None else lines
        out = torch.full((len(self.logits),), -1, dtype=torch.int64, device=DEVICE)
        rest = (self.owners, self.numbers, self.seeds, self.positions)
        at = torch.tensor(asked, dtype=torch.int32)
        choose(self.logits, at.to(DEVICE), *(part.to(DEVICE) for part in rest), out, sizes)
        assert all(out[line] == -1 for line in range(len(self.logits)) if line not in asked)
        return [int(out[line]) for line in asked]

    def check(self, sizes: Sizes = SERVED) -> None:
        noise = gumbel(self.seeds[self.owners.long()], self.positions, self.logits.shape[1])
        for line, token in enumerate(self.drawn(sizes=sizes)):
            logits, filters = self.logits[line].cpu(), self.filters[line]
            if filters[0] == 0 or filters[1:] == (0, 1.0, 0.0):
                assert token == -1, "plain sampling draws for those"
                continue
            kept = stays(logits, *filters)
            assert kept[token], (line, filters, token)
            value = torch.where(kept, logits.float() / filters[0] + noise[line], float("-inf"))
            assert float(value.max() - value[token]) < (CLOSE if CUDA else 1e-5), (line, filters)


FILTERS = [
    (1.0, 0, 0.9, 0.0),
    (0.6, 20, 0.95, 0.0),
    (0.7, 1, 1.0, 0.0),
    (1.3, 7, 1.0, 0.0),
    (1.0, 40, 0.5, 0.02),
    (0.8, 0, 1.0, 0.1),
    (2.5, 0, 0.999, 0.0),
    (1.0, 100_000, 0.7, 0.0),
    (1.0, 100_000, 1.0, 0.0),
    (0.01, 3, 0.9, 0.0),
    (1.0, 0, 1e-6, 0.0),
    (1.7, 150, 0.99, 0.001),
    (1.0, 16, 1.0, 0.0),
    (1.0, 17, 1.0, 1e-9),
    (1.0, 0, 1.0, 1.0),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 30.0])
@pytest.mark.parametrize("vocab", [50, 128, 700])
def test_the_same_tokens_as_the_definition(vocab: int, spread: float, dtype: torch.dtype) -> None:
    chance = torch.Generator().manual_seed(vocab)
    logits = spread * torch.randn(len(FILTERS), vocab, generator=chance) - 2
    Case(logits.to(dtype), FILTERS).check(SMALL)


def test_whoever_has_no_filter_keeps_what_is_there() -> None:
    chance = torch.Generator().manual_seed(5)
    case = Case(torch.randn(5, 300, generator=chance), [
        (1.0, 5, 1.0, 0.0), (0.0, 5, 0.9, 0.1), (1.0, 0, 1.0, 0.0), (1.0, -1, 1.0, 0.0), (0.9, 0, 0.5, 0.0),
    ])  # fmt: skip
    alone = case.drawn(sizes=SMALL)
    assert alone[0] >= 0 and alone[4] >= 0 and alone[1:4] == [-1] * 3
    out = torch.full((5,), 7, dtype=torch.int64, device=DEVICE)
    rest = (case.owners, case.numbers, case.seeds, case.positions)
    lines = torch.tensor([-1, 1, 4, -1, 3], dtype=torch.int32)
    choose(case.logits, lines.to(DEVICE), *(part.to(DEVICE) for part in rest), out, SMALL)
    assert out.tolist() == [7, 7, 7, 7, alone[4]], "below 0 is no line"


@pytest.mark.parametrize("few", [16, 256])
def test_equal_logits_stay_by_their_ids(few: int) -> None:
    """Far more of them than bfloat16 makes by itself."""
    chance = torch.Generator().manual_seed(1)
    logits = torch.randint(-2, 3, (len(FILTERS), 300), generator=chance).float()
    logits[::2] *= -0.0 if few == 16 else 1.0
    Case(logits, FILTERS).check(replace(SMALL, few=few, fewer=min(few, 8)))


@pytest.mark.timeout(600)
def test_sizes_as_they_are_served() -> None:
    chance = torch.Generator().manual_seed(2)
    spreads, vocab = torch.tensor([[8.0], [2.0], [0.5], [4.0]]), 20_011 if CUDA else 8_211
    logits = (spreads * torch.randn(4, vocab, generator=chance)).bfloat16()
    for filters in [(0.6, 20, 0.95, 0.0), (1.0, 0, 0.9, 0.0), (1.0, 2000, 0.99, 0.0), (1.0, 0, 1.0, 0.05)]:
        Case(logits, [filters] * 4).check()


@pytest.mark.parametrize("seed", range(20 if CUDA else 4))
def test_anything_goes(seed: int) -> None:
    chance = random.Random(seed)
    count, vocab = 12, chance.choice([33, 500, 1100])
    scale = torch.tensor([[10 ** chance.uniform(-2, 1.5)] for _ in range(count)])
    logits = scale * torch.randn(count, vocab, generator=torch.Generator().manual_seed(seed))
    logits[torch.rand(count, vocab, generator=torch.Generator().manual_seed(seed)) < 0.2] = float("-inf")
    filters = [
        (
            10 ** chance.uniform(-2, 0.5), chance.choice([0, 1, 5, 16, 17, 60, 1000]),
            chance.choice([1.0, 0.999, 0.9, 0.3]), chance.choice([0.0, 0.0, 0.3, 0.001]),
        )
        for _ in range(count)
    ]  # fmt: skip
    case = Case(logits.to(chance.choice([torch.bfloat16, torch.float32])), filters, seed)
    case.check(SMALL)


def test_what_shares_the_batch_makes_no_difference() -> None:
    logits = 3 * torch.randn(len(FILTERS), 700, generator=torch.Generator().manual_seed(3)).bfloat16()
    case = Case(logits, FILTERS)
    together = case.drawn(sizes=SMALL)
    for line in (1, 4, 6):
        assert case.drawn([line], SMALL) == [together[line]]
    assert case.drawn([9, 2, 5], SMALL) == [together[9], together[2], together[5]]


@pytest.mark.parametrize("few", [4, 16])
def test_draws_follow_what_is_left(few: int) -> None:
    draws, vocab = (20_000, 40) if CUDA else (150, 6)
    logits = torch.linspace(-1.5, 1.5, vocab).expand(draws, vocab)
    case = Case(logits, [(0.7, 0, 0.8, 0.0)] * draws)
    kept = stays(logits[0], *case.filters[0])
    counts = torch.bincount(
        torch.tensor(case.drawn(sizes=replace(SMALL, few=few, fewer=min(few, 8)))), minlength=vocab
    ).double()
    expected = torch.where(kept, (logits[0].double() / 0.7).exp(), 0.0)
    expected *= draws / expected.sum()
    assert int(counts[~kept].sum()) == 0
    chi_square = float(((counts - expected).square() / expected)[kept].sum())
    freedom = int(kept.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_a_row_of_nothing_still_gives_a_token() -> None:
    for hopeless in (float("-inf"), float("nan")):
        case = Case(torch.full((len(FILTERS), 100), hopeless), FILTERS)
        assert all(0 <= token < 100 for token in case.drawn(sizes=SMALL))


def test_strides_are_respected() -> None:
    logits = torch.randn(len(FILTERS), 200, generator=torch.Generator().manual_seed(5))
    wide = torch.full((len(FILTERS), 260), 1e9)
    wide[:, :200] = logits
    case, other = Case(logits, FILTERS), Case(logits, FILTERS)
    other.logits = wide.to(DEVICE)[:, :200]
    assert case.drawn(sizes=SMALL) == other.drawn(sizes=SMALL)
