"""Every parameter against a second definition of it, and rows that do not disturb each other."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.sampling.reference import bent, distribution, log_softmax

from baton.core.errors import InvalidField
from baton.core.types import SamplingParams
from baton.sampling.fresh import Fresh
from baton.sampling.masks import Masks
from baton.sampling.places import Places
from baton.sampling.rows import SamplingRows
from baton.sampling.sampler import TOGETHER, Picked, Sampler, entries

VOCAB = 16
DRAWS = 1500
CPU = torch.device("cpu")


class Line:
    """One sequence: how it samples, what it has so far, and the logits that it meets."""

    def __init__(
        self, row: int, sampling: SamplingParams, prompt: Sequence[int] = (1,), output: Sequence[int] = (),
        stops: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.sampling, self.prompt, self.output, self.stops = sampling, list(prompt), list(output), stops
        tokens = np.asarray([*prompt, *output], dtype=np.int32)
        self.fresh = Fresh(row, sampling, tuple(stops), len(self.prompt), tokens, -1)

    @property
    def position(self) -> int:
        """Of the token to be sampled."""
        return len(self.prompt) + len(self.output)


def sampler(lines: Sequence[Line], vocab: int = VOCAB) -> Sampler:
    rows = SamplingRows(1 + max(line.fresh.row for line in lines), vocab, CPU)
    rows.take(tuple(line.fresh for line in lines))
    return Sampler(rows)


def sample(made: Sampler, lines: Sequence[Line], logits: torch.Tensor, masks: Masks | None = None) -> Picked:
    rows = np.asarray([line.fresh.row for line in lines], dtype=np.int32)
    positions = np.asarray([line.position for line in lines], dtype=np.int32)
    places = Places(torch.from_numpy(rows), torch.from_numpy(positions), rows, positions)
    return made.sample(logits, places, masks)


def shares(logits: Sequence[float], sampling: dict[str, object], **so_far: Sequence[int]) -> list[int]:
    """How often each token comes out, over as many seeds."""
    lines = [Line(i, SamplingParams(seed=i, **sampling), **so_far) for i in range(DRAWS)]  # type: ignore[arg-type]
    tokens = sample(sampler(lines), lines, torch.tensor([list(logits)] * DRAWS)).tokens
    return torch.bincount(tokens, minlength=len(logits)).tolist()


@pytest.mark.parametrize("temperature", [5e-324, 1e-38, 1e-6, 1.1e-5])
def test_next_to_no_temperature_is_none(temperature: float) -> None:
    line = Line(0, SamplingParams(temperature=temperature, seed=3))
    logits = torch.tensor([[40.0, 3.0, 41.0, 40.9, 7.0] + [0.0] * 11])
    assert sample(sampler([line]), [line], logits).tokens.tolist() == [2]


def test_the_least_repetition_penalty_leaves_finite_logits() -> None:
    with pytest.raises(InvalidField, match="repetition_penalty"):
        SamplingParams(repetition_penalty=1e-30)
    least = {"repetition_penalty": 0.01, "temperature": 1e-4, "top_p": 0.5, "seed": 3}
    line = Line(0, SamplingParams(**least), prompt=(2, 3))  # type: ignore[arg-type]
    logits = torch.tensor([[40.0, 3.0, 41.0, 40.9, 7.0] + [0.0] * 11])
    assert sample(sampler([line]), [line], logits).tokens.tolist() == [2]


def check(counts: Sequence[int], expected: Sequence[float]) -> None:
    """Chi-square, at five standard deviations; what cannot be must not have come."""
    assert all(want > 0 for have, want in zip(counts, expected, strict=True) if have)
    likely = [(have, want * DRAWS) for have, want in zip(counts, expected, strict=True) if want * DRAWS >= 5]
    rare = [(have, want * DRAWS) for have, want in zip(counts, expected, strict=True) if 0 < want * DRAWS < 5]
    if rare:
        likely.append((sum(have for have, _ in rare), max(sum(want for _, want in rare), 1e-9)))
    chi_square = sum((have - want) ** 2 / want for have, want in likely)
    freedom = max(len(likely) - 1, 1)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom), (chi_square, counts, expected)


def some_logits(seed: int, spread: float = 1.5) -> list[float]:
    chance = random.Random(seed)
    return torch.tensor([spread * chance.gauss(0, 1) for _ in range(VOCAB)]).tolist()


SETTINGS: list[dict[str, object]] = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": VOCAB + 5},
    {"top_k": -1},
    {"top_p": 0.5},
    {"top_p": 0.9, "temperature": 0.6},
    {"top_p": 1e-6},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"min_p": 0.05, "top_k": 6, "top_p": 0.8, "temperature": 1.7},
    {"presence_penalty": 1.3},
    {"presence_penalty": -2.0},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -0.4},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.6},
    {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.2, "top_p": 0.9},
    {"logit_bias": ((2, 3.0), (5, -100.0), (2, 0.5))},
    {"logit_bias": ((0, 2.0),), "repetition_penalty": 1.5, "temperature": 0.8, "top_k": 9},
    {"min_tokens": 9, "max_tokens": 20},
    {"min_tokens": 3, "max_tokens": 20},
    {"min_tokens": 9, "max_tokens": 20, "logit_bias": ((4, 50.0),), "top_k": 4},
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: ",".join(map(str, setting)))
def test_tokens_come_as_often_as_the_definition_says(setting: dict[str, object]) -> None:
    so_far = {"prompt": [1, 2, 2, 7, 11], "output": [3, 3, 3, 9, 2], "stops": [4, 8]}
    logits = some_logits(SETTINGS.index(setting))
    expected = distribution(logits, SamplingParams(**setting), **so_far)  # type: ignore[arg-type]
    check(shares(logits, setting, **so_far), expected)


def test_the_likeliest_is_taken_whatever_bends_the_logits() -> None:
    """temperature 0, every other parameter at random, against the reference's largest."""
    chance = random.Random(5)
    lines, logits = [], []
    for row in range(300):
        bias = tuple((chance.randrange(VOCAB), round(chance.uniform(-3, 3), 2)) for _ in range(3))
        sampling = SamplingParams(
            temperature=0.0, max_tokens=50, min_tokens=chance.randrange(8),
            presence_penalty=chance.choice([0.0, 1.5, -1.0]),
            frequency_penalty=chance.choice([0.0, 0.5, -0.5]),
            repetition_penalty=chance.choice([1.0, 1.5, 0.7]), logit_bias=bias if row % 3 else (),
        )  # fmt: skip
        prompt = [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 6))]
        output = [chance.randrange(VOCAB) for _ in range(chance.randrange(9))]
        lines.append(Line(row, sampling, prompt, output, chance.sample(range(VOCAB), 3)))
        logits.append(some_logits(row + 100))
    got = sample(sampler(lines), lines, torch.tensor(logits)).tokens.tolist()
    for line, values, token in zip(lines, logits, got, strict=True):
        want = bent(values, line.sampling, line.prompt, line.output, line.stops)
        assert token == want.index(max(want))


def test_ties_fall_to_the_lower_token() -> None:
    logits = [0.0] * VOCAB
    counts = shares(logits, {"top_k": 5})
    assert [token for token, count in enumerate(counts) if count] == [0, 1, 2, 3, 4]
    counts = shares(logits, {"top_p": 0.26})
    assert [token for token, count in enumerate(counts) if count] == [0, 1, 2, 3, 4]
    assert shares(logits, {"top_k": 1})[0] == shares(logits, {"temperature": 0.0})[0] == DRAWS
    assert min(shares(logits, {"min_p": 1.0})) > 0, "what equals the floor stays"


def test_top_k_of_one_is_greedy() -> None:
    logits = torch.tensor([some_logits(seed) for seed in range(50)])
    lines = [Line(i, SamplingParams(top_k=1, temperature=1.7, seed=i)) for i in range(50)]
    assert sample(sampler(lines), lines, logits).tokens.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-5, 1e-6, 1e-37, 1e-44, 1e-300])
def test_however_cold_the_likeliest_is_taken(temperature: float) -> None:
    """Divided by so little, several logits are infinite, and the first of those would be taken."""
    line = Line(0, SamplingParams(temperature=temperature, seed=3))
    logits = torch.tensor([[1.0, 30.0, -2.0, 40.0, *[0.0] * (VOCAB - 4)]])
    assert sample(sampler([line]), [line], logits).tokens.tolist() == [3]


def test_the_likeliest_always_survives() -> None:
    sharp = [0.0] * VOCAB
    sharp[6] = 40.0
    for filters in ({"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 1}, {"top_k": 2, "top_p": 0.01, "min_p": 1.0}):
        assert shares(sharp, filters)[6] == DRAWS


def test_stops_are_impossible_until_min_tokens_were_generated_and_no_longer() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 4] = 9.0
    for temperature in (0.0, 0.1):
        tokens = []
        for generated in range(5):
            sampling = SamplingParams(min_tokens=3, temperature=temperature, seed=1)
            line = Line(0, sampling, prompt=[5, 6], output=[1] * generated, stops=[4, VOCAB + 3])
            tokens.append(int(sample(sampler([line]), [line], logits).tokens))
        assert 4 not in tokens[:3] and tokens[3:] == [4, 4]


def test_penalties_follow_what_was_sampled() -> None:
    """Over several steps, the device's counts are those of the tokens that came out."""
    chance = random.Random(2)
    lines = [
        Line(
            row,
            SamplingParams(
                temperature=0.0, presence_penalty=0.9, frequency_penalty=0.4, repetition_penalty=1.3
            ),
            prompt=[row % VOCAB, 3],
        )
        for row in range(12)
    ]
    made = sampler(lines)
    for step in range(10):
        present = chance.sample(lines, 8)  # not every sequence is in every batch
        logits = [some_logits(step * 50 + i, spread=0.6) for i in range(len(present))]
        tokens = sample(made, present, torch.tensor(logits)).tokens.tolist()
        for line, values, token in zip(present, logits, tokens, strict=True):
            want = bent(values, line.sampling, line.prompt, line.output)
            assert token == want.index(max(want))
            line.output.append(token)


def mixture(count: int) -> list[Line]:
    """Sequences that ask for everything there is, and some that ask for nothing."""
    chance = random.Random(count)
    lines = []
    for row in range(count):
        sampling = SamplingParams(
            max_tokens=50,
            min_tokens=chance.choice([0, 0, 6]),
            temperature=chance.choice([0.0, 0.5, 1.0, 3.0]),
            top_k=chance.choice([0, 0, 1, 4]),
            top_p=chance.choice([1.0, 1.0, 0.7]),
            min_p=chance.choice([0.0, 0.0, 0.2]),
            seed=chance.randrange(2**64),
            presence_penalty=chance.choice([0.0, 0.0, 1.0]),
            frequency_penalty=chance.choice([0.0, 0.0, 0.5]),
            repetition_penalty=chance.choice([1.0, 1.0, 1.4]),
            logit_bias=((chance.randrange(VOCAB), 1.5),) if chance.random() < 0.3 else (),
            logprobs=chance.choice([None, None, 2]),
        )
        lines.append(Line(row, sampling, [row % VOCAB] * (1 + row % 5), stops=[chance.randrange(VOCAB)]))
    return lines


def test_rows_of_different_needs_do_not_disturb_each_other() -> None:
    together = mixture(40)
    alone = mixture(40)
    batch, single = sampler(together), [sampler([line]) for line in alone]
    for step in range(8):
        logits = torch.tensor([some_logits(step * 40 + i) for i in range(40)])
        order = random.Random(step).sample(range(40), 40)
        tokens = sample(batch, [together[i] for i in order], logits[order]).tokens.tolist()
        for i, token in zip(order, tokens, strict=True):
            assert int(sample(single[i], [alone[i]], logits[i : i + 1]).tokens) == token, f"row {i}"
            together[i].output.append(token)
            alone[i].output.append(token)


def test_the_caller_s_logits_are_left_alone() -> None:
    lines = mixture(40)
    logits = torch.tensor([some_logits(i) for i in range(40)])
    before = logits.clone()
    sample(sampler(lines), lines, logits)
    assert torch.equal(logits, before)


def test_logprobs_and_ranks_are_those_of_the_raw_logits() -> None:
    chance = random.Random(8)
    asked = [0, 3, None, 20, 1] * 6
    lines = [
        Line(
            row,
            SamplingParams(
                temperature=1.5, seed=row, logprobs=k, repetition_penalty=1.5, logit_bias=((3, 5.0),)
            ),
            prompt=[chance.randrange(VOCAB)],
        )
        for row, k in enumerate(asked)
    ]
    logits = [some_logits(row + 400) for row in range(len(lines))]
    picked = sample(sampler(lines), lines, torch.tensor(logits))
    for values, k, token, entry in zip(
        logits, asked, picked.tokens.tolist(), entries(picked, list(asked)), strict=True
    ):
        if k is None:
            assert entry is None
            continue
        want = log_softmax(values)
        ranked = sorted(range(VOCAB), key=lambda one: -want[one])
        assert entry is not None
        assert entry.token_id == token and entry.rank == ranked.index(token) + 1
        assert entry.logprob == pytest.approx(want[token], abs=1e-5)
        assert [one for one, _ in entry.top] == ranked[:k]
        assert [value for _, value in entry.top] == pytest.approx([want[one] for one in ranked[:k]], abs=1e-5)


def test_equally_likely_tokens_share_a_rank() -> None:
    line = Line(0, SamplingParams(temperature=0.0, logprobs=1, logit_bias=((2, 9.0),)))
    logits = torch.zeros(1, VOCAB)
    logits[0, 5] = 1.0
    (entry,) = entries(sample(sampler([line]), [line], logits), [1])
    assert entry is not None and (entry.token_id, entry.rank) == (2, 2)


def test_half_precision_logits_give_float_logprobs() -> None:
    line = Line(0, SamplingParams(temperature=0.0, logprobs=1, presence_penalty=1.0))
    picked = sample(sampler([line]), [line], torch.tensor([some_logits(1)], dtype=torch.bfloat16))
    assert picked.logprobs is not None and picked.logprobs.dtype == torch.float32


@pytest.mark.parametrize("vocab", [16, 21])
def test_a_mask_leaves_what_it_names_and_other_lines_alone(vocab: int) -> None:
    """Also under penalties and filters, and where the vocabulary is no multiple of eight."""
    ways: list[dict[str, object]] = [
        {"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.3}, {"repetition_penalty": 2.0}, {"min_p": 0.5}, {},
    ]  # fmt: skip
    lines = [Line(i, SamplingParams(seed=i, **ways[i % 6]), output=[i % 5]) for i in range(300)]  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(lines), vocab, generator=generator, dtype=torch.float32)
    kept = torch.rand(len(lines), vocab, generator=generator) < 0.3
    kept[:, 3] = True
    masked = np.asarray([i for i in range(len(lines)) if i % 3], dtype=np.int32)
    bits = np.packbits(kept.numpy()[masked], axis=1, bitorder="little")
    masks = Masks(masked, np.pad(bits, ((0, 0), (0, -bits.shape[1] % 4))))
    before = logits.clone()
    free = sample(sampler(lines, vocab), lines, logits).tokens
    tokens = sample(sampler(lines, vocab), lines, logits, masks).tokens
    assert torch.equal(logits, before), "the step's logits are read again"
    reference = sample(sampler(lines, vocab), lines, logits.masked_fill(~kept, float("-inf"))).tokens
    for i in range(len(lines)):
        assert tokens[i] == (reference if i % 3 else free)[i]
        assert i % 3 == 0 or kept[i, tokens[i]]


def test_log_probabilities_are_those_of_the_raw_logits_under_a_mask_too() -> None:
    line = Line(0, SamplingParams(temperature=0.0, logprobs=2))
    masks = Masks(np.asarray([0], dtype=np.int32), np.asarray([[0b100, 0, 0, 0]], dtype=np.uint8))
    picked = sample(sampler([line], 4), [line], torch.tensor([[3.0, 2.0, 1.0, 0.0]]), masks)
    (entry,) = entries(picked, [2])
    assert entry is not None and (entry.token_id, entry.rank) == (2, 3)
    assert [token for token, _ in entry.top] == [0, 1]


def test_each_of_many_lines_is_what_it_is_alone() -> None:
    """More have masks, penalties and log-probabilities than have copies of their logits at a time."""
    ways: list[dict[str, object]] = [
        {"repetition_penalty": 1.5}, {"top_p": 0.8}, {"temperature": 0.0, "logprobs": 2}, {},
        {"logit_bias": ((3, 4.0),), "top_k": 4, "logprobs": 0}, {"presence_penalty": 0.4, "logprobs": 5},
    ]  # fmt: skip
    count = 4 * TOGETHER + 3
    lines = [Line(i, SamplingParams(seed=i, **ways[i % 6]), output=[i % 5]) for i in range(count)]  # type: ignore[arg-type]
    chance = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(count, VOCAB, generator=chance)
    kept = (torch.rand(count, VOCAB, generator=chance) < 0.6).numpy()
    bits = np.pad(np.packbits(kept, axis=1, bitorder="little"), ((0, 0), (0, 2)))
    masked = np.asarray([i for i in range(count) if i % 4], dtype=np.int32)
    together = sample(sampler(lines), lines, logits, Masks(masked, bits[masked]))
    told = entries(together, [line.sampling.logprobs for line in lines])
    for i in range(0, count, 5):
        mask = Masks(np.zeros(1, np.int32), bits[i : i + 1]) if i % 4 else None
        alone = sample(sampler([lines[i]]), [lines[i]], logits[i : i + 1], mask)
        assert together.tokens[i] == alone.tokens[0]
        if lines[i].sampling.logprobs is not None:
            assert [told[i]] == list(entries(alone, [lines[i].sampling.logprobs]))
        else:
            assert told[i] is None
