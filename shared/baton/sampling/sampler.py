"""Turns logits into tokens. One call a step; on a GPU it never waits for the device.

Order: log-probabilities of the raw logits; bias and the floor of `min_tokens`; penalties; grammars;
temperature; min_p, top_k, top_p; then the Gumbel argmax: adding noise that depends only on (seed,
position, token) and taking the largest samples the softmax exactly, and a sequence draws the same
tokens whatever shares its batch, in whatever pod, before or after a retraction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from baton.core.types import MAX_TOP_LOGPROBS, TokenLogprob
from baton.sampling.fresh import Ints
from baton.sampling.masks import Masks
from baton.sampling.noise import gumbel
from baton.sampling.rows import Need, SamplingRows, send


@dataclass(frozen=True, slots=True)
class Picked:
    """Sampled tokens on the device, with log-probabilities when a row asked for them."""

    tokens: Tensor
    """[M] int64."""
    logprobs: Tensor | None = None
    """[M] float32, of each token."""
    ranks: Tensor | None = None
    """[M] int64, 1 is the likeliest."""
    top: tuple[Tensor, Tensor] | None = None
    """[M, MAX_TOP_LOGPROBS] log-probabilities and token ids."""


@dataclass(frozen=True, slots=True)
class Places:
    """Which row each logit line belongs to and which position its token will take, on both sides."""

    rows: Tensor
    """[M] int32 on the device."""
    positions: Tensor
    """[M] int32 on the device: index of the token to be sampled."""
    host_rows: Ints
    host_positions: Ints


class Sampler:
    def __init__(self, rows: SamplingRows) -> None:
        self.rows = rows

    def plain(self, host_rows: Ints) -> bool:
        """Whether these rows need no more than temperature and argmax."""
        return not np.bitwise_or.reduce(self.rows.needs[host_rows], initial=0) & ~np.uint8(Need.NOISE)

    def sample(self, logits: Tensor, places: Places, masks: Masks | None = None) -> Picked:
        """logits [M, vocab] → tokens, of those that `masks` leave; updates the penalties' counts."""
        needs = self.rows.needs[places.host_rows]
        every = int(np.bitwise_or.reduce(needs, initial=0))
        raw = logits
        if every & (Need.BIAS | Need.FLOOR | Need.PENALTY) or masks is not None:
            logits = logits.float().clone()
            self._bend(logits, needs, places)
        if every & Need.PENALTY:
            self._penalise(logits, needs, places)
        if masks is not None:
            forbid(logits, masks)
        tokens = self._draw(logits, needs, places) if every & Need.NOISE else logits.argmax(dim=-1)
        if every & Need.PENALTY:
            self._count(tokens, needs, places)
        if every & Need.LOGPROBS:
            return score(raw, tokens)
        return Picked(tokens)

    def _bend(self, logits: Tensor, needs: np.ndarray, places: Places) -> None:
        """Add biases; make stops impossible where min_tokens is not reached."""
        bends: list[tuple[int, int, float]] = []
        for line in np.flatnonzero(needs & (Need.BIAS | Need.FLOOR)).tolist():
            fresh = self.rows.of(int(places.host_rows[line]))
            bends += [(line, token, bias) for token, bias in fresh.sampling.logit_bias]
            if places.host_positions[line] - fresh.prompt < fresh.sampling.min_tokens:
                bends += [(line, token, float("-inf")) for token in fresh.stops if token < logits.shape[-1]]
        if bends:
            lines, tokens, values = zip(*bends, strict=True)
            index = send(np.asarray([lines, tokens], dtype=np.int64), logits.device)
            added = send(np.asarray(values, dtype=np.float32), logits.device)
            logits.index_put_((index[0], index[1]), added, accumulate=True)

    def _penalise(self, logits: Tensor, needs: np.ndarray, places: Places) -> None:
        lines, rows = self._lines(needs, Need.PENALTY, places, logits.device)
        counts, seen = self.rows.counts, self.rows.seen
        assert counts is not None and seen is not None
        presence, frequency, repetition = (self.rows.numbers[k, rows, None] for k in (4, 5, 6))
        count = counts[rows]
        values = logits[lines]
        met = seen[rows] | (count > 0)
        values = torch.where(met, torch.where(values > 0, values / repetition, values * repetition), values)
        logits[lines] = values - frequency * count - presence * (count > 0)

    def _count(self, tokens: Tensor, needs: np.ndarray, places: Places) -> None:
        lines, rows = self._lines(needs, Need.PENALTY, places, tokens.device)
        assert self.rows.counts is not None
        one = torch.ones(len(lines), dtype=torch.int32, device=tokens.device)
        self.rows.counts.index_put_((rows, tokens[lines]), one, accumulate=True)

    def _draw(self, logits: Tensor, needs: np.ndarray, places: Places) -> Tensor:
        noisy, rows = self._lines(needs, Need.NOISE, places, logits.device)
        scaled = logits[noisy].float() / self.rows.temperature[rows, None]
        filtered = np.flatnonzero(needs[(needs & Need.NOISE) > 0] & Need.FILTER)
        if len(filtered):
            some = send(filtered, logits.device)
            scaled[some] = self._filter(scaled[some], rows[some])
        noise = gumbel(self.rows.seeds[rows], places.positions[noisy], logits.shape[-1])
        drawn = (scaled + noise).argmax(dim=-1)
        if len(noisy) == len(logits):
            return drawn
        tokens = logits.argmax(dim=-1)
        tokens[noisy] = drawn
        return tokens

    def _filter(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Drop what min_p, top_k and top_p exclude; the likeliest token always stays."""
        top_k, top_p, min_p = (self.rows.numbers[k, rows, None] for k in (1, 2, 3))
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + min_p.log(), float("-inf"))
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        place = torch.arange(logits.shape[-1], device=logits.device)
        ordered = ordered.masked_fill((top_k > 0) & (place >= top_k), float("-inf"))
        probability = ordered.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        ordered = ordered.masked_fill((before >= top_p) & (place > 0) & (top_p < 1.0), float("-inf"))
        return torch.empty_like(logits).scatter_(-1, index, ordered)

    @staticmethod
    def _lines(needs: np.ndarray, need: Need, places: Places, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which logit lines have a need, and their rows."""
        chosen = np.flatnonzero(needs & need)
        both = send(np.stack([chosen, places.host_rows[chosen]]).astype(np.int64), device)
        return both[0], both[1]


def forbid(logits: Tensor, masks: Masks) -> None:
    """Make impossible in place what the masks leave out."""
    lines = send(masks.lines.astype(np.int64), logits.device)
    bits = send(masks.bits, logits.device)
    places = torch.arange(8, dtype=torch.uint8, device=logits.device)
    allowed = (bits[:, :, None] >> places & 1).view(len(lines), -1)[:, : logits.shape[-1]]
    logits[lines] = logits[lines].masked_fill(allowed == 0, float("-inf"))


def score(logits: Tensor, tokens: Tensor) -> Picked:
    """Log-probabilities of `tokens` [M] under `logits` [M, vocab], their ranks and the likeliest."""
    logprobs = logits.float().log_softmax(dim=-1)
    chosen = logprobs.gather(-1, tokens[:, None])
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    values, ids = logprobs.topk(min(MAX_TOP_LOGPROBS, logprobs.shape[-1]), dim=-1)
    return Picked(tokens, chosen[:, 0], ranks, (values, ids))


def entries(picked: Picked, tops: list[int | None]) -> tuple[TokenLogprob | None, ...]:
    """Host values of what `score` computed; `tops[i]` alternatives for line i, None for no entry at all."""
    assert picked.logprobs is not None and picked.ranks is not None and picked.top is not None
    tokens, logprobs, ranks = picked.tokens.tolist(), picked.logprobs.tolist(), picked.ranks.tolist()
    values, ids = picked.top[0].tolist(), picked.top[1].tolist()
    made: list[TokenLogprob | None] = []
    for i, k in enumerate(tops):
        top = () if not k else tuple(zip(ids[i][:k], values[i][:k], strict=True))
        made.append(None if k is None else TokenLogprob(tokens[i], logprobs[i], ranks[i], top))
    return tuple(made)
