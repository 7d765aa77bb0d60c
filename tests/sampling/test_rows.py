"""The sampling state of rows: what a sequence brings is there, what the one before left is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from baton.core.types import SamplingParams
from baton.sampling.fresh import Fresh
from baton.sampling.rows import Need, SamplingRows, needs_of

VOCAB = 12


def rows(count: int = 4) -> SamplingRows:
    return SamplingRows(count, VOCAB, torch.device("cpu"))


def fresh(row: int, tokens: list[int], prompt: int, **sampling: object) -> Fresh:
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    return Fresh(row, params, (), prompt, np.asarray(tokens, dtype=np.int32), -1)


@pytest.mark.parametrize(
    ("sampling", "need"),
    [
        ({}, Need.NOISE),
        ({"temperature": 0.0}, Need(0)),
        ({"temperature": 1e-6}, Need(0)),
        ({"top_k": 1}, Need(0)),
        ({"temperature": 0.0, "top_p": 0.5, "min_p": 0.1, "top_k": 7}, Need(0)),
        ({"top_k": 7}, Need.NOISE | Need.FILTER),
        ({"top_k": -1}, Need.NOISE),
        ({"top_p": 0.99}, Need.NOISE | Need.FILTER),
        ({"min_p": 0.01}, Need.NOISE | Need.FILTER),
        ({"temperature": 0.0, "presence_penalty": 0.1}, Need.PENALTY),
        ({"temperature": 0.0, "frequency_penalty": -0.1}, Need.PENALTY),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, Need.PENALTY),
        ({"temperature": 0.0, "logit_bias": ((1, 0.5),)}, Need.BIAS),
        ({"temperature": 0.0, "min_tokens": 1}, Need.FLOOR),
        ({"temperature": 0.0, "logprobs": 0}, Need.LOGPROBS),
    ],
)
def test_a_row_needs_what_its_parameters_ask_for_and_no_more(sampling: dict[str, object], need: Need) -> None:
    assert needs_of(SamplingParams(**sampling)) == need  # type: ignore[arg-type]


def test_numbers_lie_where_the_sampler_reads_them() -> None:
    made = rows()
    made.take(
        (
            fresh(2, [], 0, temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, seed=9),
            fresh(1, [1], 1, presence_penalty=1.5, frequency_penalty=-0.5, repetition_penalty=2.0),
        )
    )
    assert made.numbers[:, 2].tolist() == [0.5, 7.0, 0.25, 0.125, 0.0, 0.0, 1.0]
    assert made.numbers[:, 1].tolist() == [1.0, 0.0, 1.0, 0.0, 1.5, -0.5, 2.0]
    assert made.seeds.tolist() == [0, 0, 9, 0]
    assert made.numbers[:, 3].tolist() == [0.0] * 7, "a row that nobody took"


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -1, -(2**63), 2**63 - 1, 0])
def test_every_seed_of_64_bits_keeps_its_bits(seed: int) -> None:
    made = rows()
    made.take((fresh(1, [], 0, seed=seed),))
    assert int(made.seeds[1]) % 2**64 == seed % 2**64


def test_prompt_and_output_are_remembered_apart() -> None:
    made = rows()
    made.take((fresh(1, [3, 3, 5, 5, 5, 7], prompt=3, repetition_penalty=1.1),))
    assert made.counts is not None and made.seen is not None
    assert made.seen[1].nonzero().flatten().tolist() == [3, 5]
    assert made.counts[1].tolist() == [0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0]


def test_a_row_starts_anew_with_its_next_sequence() -> None:
    made = rows()
    made.take((fresh(1, [3, 4, 4], prompt=1, presence_penalty=1.0, logprobs=2, min_tokens=2),))
    made.take((fresh(1, [8, 9], prompt=1, frequency_penalty=1.0),))
    assert made.counts is not None and made.seen is not None
    assert made.seen[1].nonzero().flatten().tolist() == [8]
    assert made.counts[1].nonzero().flatten().tolist() == [9]
    assert made.needs[1] == Need.NOISE | Need.PENALTY
    made.take((fresh(1, [], 0, temperature=0.0),))
    assert made.needs[1] == 0
    assert made.of(1).sampling.temperature == 0.0


def test_other_rows_are_left_alone() -> None:
    made = rows()
    made.take((fresh(1, [3, 4], prompt=1, presence_penalty=1.0), fresh(2, [5], 1, seed=7)))
    assert made.counts is not None
    before = made.numbers[:, 1].clone(), made.counts[1].clone()
    made.take((fresh(2, [6, 6], 1, presence_penalty=1.0),))
    assert torch.equal(made.numbers[:, 1], before[0]) and torch.equal(made.counts[1], before[1])


def test_no_table_of_counts_without_a_penalty() -> None:
    made = rows()
    made.take((fresh(1, [], 0, top_p=0.5, logit_bias=((1, 1.0),)),))
    assert made.counts is None and made.seen is None
    made.take(())


def test_a_row_that_was_never_taken_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="row 3 was never taken"):
        rows().of(3)
