"""Draws a token from each line of logits, of those that its row's filters leave: min_p, top_k, then top_p.

The Gumbel argmax: adding noise that depends only on (seed, position, token) and taking the largest samples
the softmax exactly, and a sequence draws the same tokens whatever shares its batch, in whatever pod, before
or after a retraction. `ByDefinition` says in torch what that means; `ByKernels` does the same on CUDA without
sorting, and without the noise ever being in memory.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from baton.sampling.noise import gumbel
from baton.sampling.places import Places
from baton.sampling.rows import Need, Needs, SamplingRows, send


class Drawing(Protocol):
    def draw(self, logits: Tensor, needs: Needs, places: Places) -> Tensor:
        """[M, vocab] → [M] int64."""
        ...

    def warm(self, dtype: torch.dtype) -> None:
        """Be ready for logits of this type."""
        ...


def drawing(rows: SamplingRows) -> Drawing:
    return ByKernels(rows) if rows.device.type == "cuda" else ByDefinition(rows)


class ByDefinition:
    def __init__(self, rows: SamplingRows) -> None:
        self._rows = rows

    def warm(self, dtype: torch.dtype) -> None:
        pass

    def draw(self, logits: Tensor, needs: Needs, places: Places) -> Tensor:
        noisy = np.flatnonzero(needs & Need.NOISE)
        if not len(noisy):
            return logits.argmax(dim=-1)
        theirs, at = places.some(noisy)
        scaled = logits[at].float() / self._rows.temperature[theirs.rows, None]
        filtered = np.flatnonzero(needs[noisy] & Need.FILTER)
        if len(filtered):
            some = send(filtered, logits.device)
            scaled[some] = self._filter(scaled[some], theirs.rows[some])
        noise = gumbel(self._rows.seeds[theirs.rows], theirs.positions, logits.shape[-1])
        drawn = (scaled + noise).argmax(dim=-1)
        if len(noisy) == len(logits):
            return drawn
        tokens = logits.argmax(dim=-1)
        tokens[at] = drawn
        return tokens

    def _filter(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Drop what min_p, top_k and top_p exclude; the likeliest token always stays."""
        top_k, top_p, min_p = (self._rows.numbers[k, rows, None] for k in (1, 2, 3))
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + min_p.log(), float("-inf"))
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        place = torch.arange(logits.shape[-1], device=logits.device)
        ordered = ordered.masked_fill((top_k > 0) & (place >= top_k), float("-inf"))
        probability = ordered.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        ordered = ordered.masked_fill((before >= top_p) & (place > 0) & (top_p < 1.0), float("-inf"))
        return torch.empty_like(logits).scatter_(-1, index, ordered)


class ByKernels:
    def __init__(self, rows: SamplingRows) -> None:
        from baton.sampling.filtered import choose
        from baton.sampling.fused import sample

        self._rows = rows
        self._sample = sample
        self._choose = choose

    def warm(self, dtype: torch.dtype) -> None:
        """Compile, so that no request waits for that."""
        device, rows = self._rows.device, self._rows
        line = torch.zeros(1, dtype=torch.int32, device=device)
        out = torch.zeros(1, dtype=torch.int64, device=device)
        for width in {rows.vocab, -(-rows.vocab // 16) * 16}:  # a head that is split pads its share
            logits = torch.zeros(1, width, dtype=dtype, device=device)[:, : rows.vocab]
            self._sample(logits, rows.temperature[:1], rows.seeds[:1], line)
            self._choose(logits, line, line, rows.numbers, rows.seeds, line, out)

    def draw(self, logits: Tensor, needs: Needs, places: Places) -> Tensor:
        rows = self._rows
        tokens = self._sample(
            logits, rows.temperature[places.rows], rows.seeds[places.rows], places.positions
        )
        filtered = np.flatnonzero(needs & Need.FILTER).astype(np.int32)
        if len(filtered):
            lines = send(filtered, logits.device)
            self._choose(logits, lines, places.rows, rows.numbers, rows.seeds, places.positions, tokens)
        return tokens
