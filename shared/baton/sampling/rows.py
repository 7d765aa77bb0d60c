"""The sampling state of every row: on the device for the kernels, on the host for deciding what to run.

One owner, the runner; written only when a sequence takes a row. What a batch needs beyond plain
temperature sampling is decided from the host's copy, so that a step never asks the device.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.core.types import SamplingParams
from baton.sampling.fresh import Fresh, Ints

Needs = npt.NDArray[np.uint8]
"""A `Need` for each line or row."""


class Need(IntFlag):
    """What a row asks of the sampler beyond argmax."""

    NOISE = 1
    FILTER = 2
    PENALTY = 4
    BIAS = 8
    FLOOR = 16
    """min_tokens has not been reached, perhaps."""
    LOGPROBS = 32


def needs_of(sampling: SamplingParams) -> Need:
    need = Need(0)
    if not sampling.greedy:
        need |= Need.NOISE
        if sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0:
            need |= Need.FILTER
    if (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) != (
        0.0,
        0.0,
        1.0,
    ):
        need |= Need.PENALTY
    if sampling.logit_bias:
        need |= Need.BIAS
    if sampling.min_tokens:
        need |= Need.FLOOR
    if sampling.logprobs is not None:
        need |= Need.LOGPROBS
    return need


class SamplingRows:
    def __init__(self, rows: int, vocab: int, device: torch.device) -> None:
        self.vocab = vocab
        self.device = device
        self.needs = np.zeros(rows, dtype=np.uint8)
        self.params: list[Fresh | None] = [None] * rows
        self.numbers = torch.zeros(7, rows, dtype=torch.float32, device=device)
        """temperature, top_k, top_p, min_p, presence, frequency, repetition of every row."""
        self.temperature = self.numbers[0]
        self.seeds = torch.zeros(rows, dtype=torch.int64, device=device)
        self.counts: Tensor | None = None
        """[rows, vocab] int32: how often each token was generated; made when a penalty first asks for it."""
        self.seen: Tensor | None = None
        """[rows, vocab] bool: tokens of the prompt."""

    def take(self, fresh: tuple[Fresh, ...]) -> None:
        """Rows begin anew with these parameters."""
        if not fresh:
            return
        for one in fresh:
            self.needs[one.row] = needs_of(one.sampling)
            self.params[one.row] = one
        rows = send(np.asarray([one.row for one in fresh], dtype=np.int64), self.device)
        numbers = np.asarray([self._numbers(one.sampling) for one in fresh], dtype=np.float32)
        self.numbers[:, rows] = send(numbers, self.device).T
        seeds = np.asarray([_signed(one.sampling.seed or 0) for one in fresh], dtype=np.int64)
        self.seeds[rows] = send(seeds, self.device)
        for one in fresh:
            if needs_of(one.sampling) & Need.PENALTY:
                self._remember(one)

    @staticmethod
    def _numbers(s: SamplingParams) -> tuple[float, ...]:
        temperature = 0.0 if s.greedy else s.temperature
        return (
            temperature, float(s.top_k), s.top_p, s.min_p,
            s.presence_penalty, s.frequency_penalty, s.repetition_penalty,
        )  # fmt: skip

    def _remember(self, one: Fresh) -> None:
        if self.counts is None or self.seen is None:
            shape = (len(self.params), self.vocab)
            self.counts = torch.zeros(shape, dtype=torch.int32, device=self.device)
            self.seen = torch.zeros(shape, dtype=torch.bool, device=self.device)
        tokens = send(one.tokens.astype(np.int64), self.device)
        prompt, output = tokens[: one.prompt], tokens[one.prompt :]
        self.seen[one.row] = False
        self.seen[one.row, prompt] = True
        self.counts[one.row] = torch.bincount(output, minlength=self.vocab)[: self.vocab].to(torch.int32)

    def every(self, rows: Ints) -> Need:
        """What they need, all of them together."""
        return Need(int(np.bitwise_or.reduce(self.needs[rows], initial=0)))

    def of(self, row: int) -> Fresh:
        fresh = self.params[row]
        assert fresh is not None, f"row {row} was never taken"
        return fresh


def send(values: np.ndarray, device: torch.device) -> Tensor:
    """To the device without waiting for it: torch keeps the pinned copy until it has been read."""
    host = torch.from_numpy(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def _signed(seed: int) -> int:
    """A seed of 64 bits as the int64 with the same bits."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >= 1 << 63 else seed
