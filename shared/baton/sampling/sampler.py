"""Turns logits into tokens. One call a step; on a GPU it never waits for the device.

Order: log-probabilities of the raw logits; bias and the floor of `min_tokens`; penalties; grammars;
temperature; min_p, top_k, top_p; then the draw (`drawing`). Lines whose logits are changed have copies of
them, so that what one client asks for is computed for its own lines alone; a few at a time, so that the
copies of a large batch take little memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.core.types import MAX_TOP_LOGPROBS, TokenLogprob
from baton.sampling.drawing import Drawing, drawing
from baton.sampling.masks import Masks
from baton.sampling.places import Places
from baton.sampling.rows import Need, Needs, SamplingRows, send

CHANGES = Need.BIAS | Need.FLOOR | Need.PENALTY
TOGETHER = 64
"""Lines that have copies at a time; some of a MB each, a few times over."""

Lines = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Picked:
    """Sampled tokens on the device, with log-probabilities when a row asked for them."""

    tokens: Tensor
    """[M] int64."""
    logprobs: Tensor | None = None
    """[M] float32, of each token; of lines that did not ask it is anything."""
    ranks: Tensor | None = None
    """[M] int64, 1 is the likeliest."""
    top: tuple[Tensor, Tensor] | None = None
    """[M, MAX_TOP_LOGPROBS] log-probabilities and token ids."""


class Sampler:
    def __init__(self, rows: SamplingRows, draws: Drawing | None = None) -> None:
        self.rows = rows
        self._drawing = draws or drawing(rows)

    def warm(self, dtype: torch.dtype) -> None:
        """Be ready for logits of this type; copies of changed ones are float32."""
        self._drawing.warm(dtype)
        self._drawing.warm(torch.float32)

    def sample(
        self, logits: Tensor, places: Places, masks: Masks | None = None, drawn: Tensor | None = None
    ) -> Picked:
        """logits [M, vocab] → tokens, of those that `masks` leave; updates the penalties' counts. `drawn` is
        what these logits give where nothing changes them, if that is known."""
        needs = self.rows.needs[places.host_rows]
        changed = (needs & CHANGES) > 0
        if masks is not None:
            changed[masks.lines] = True
        if changed.any():
            tokens = self._apart(logits, needs, places, masks, drawn, changed)
        else:
            tokens = self._drawing.draw(logits, needs, places) if drawn is None else drawn.clone()
        asked = np.flatnonzero(needs & Need.LOGPROBS)
        return self._scored(logits, tokens, asked) if len(asked) else Picked(tokens)

    def _apart(
        self, logits: Tensor, needs: Needs, places: Places, masks: Masks | None, drawn: Tensor | None,
        changed: npt.NDArray[np.bool_],
    ) -> Tensor:  # fmt: skip
        """Draw for others as if changed lines asked for nothing, and for those from copies."""
        if changed.all():
            tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        elif drawn is None:
            tokens = self._drawing.draw(logits, np.where(changed, np.uint8(0), needs), places)
        else:
            tokens = drawn.clone()
        for lines in _parts(np.flatnonzero(changed)):
            some, at = places.some(lines)
            tokens[at] = self._change(logits[at].float(), needs[lines], some, _of(masks, lines))
        return tokens

    def _change(self, logits: Tensor, needs: Needs, places: Places, masks: Masks | None) -> Tensor:
        """Draw from logits that may be overwritten."""
        every = int(np.bitwise_or.reduce(needs, initial=0))
        self._bend(logits, needs, places)
        if every & Need.PENALTY:
            self._penalise(logits, needs, places)
        if masks is not None:
            forbid(logits, masks)
        tokens = self._drawing.draw(logits, needs, places)
        if every & Need.PENALTY:
            self._count(tokens, needs, places)
        return tokens

    def _bend(self, logits: Tensor, needs: Needs, places: Places) -> None:
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

    def _penalise(self, logits: Tensor, needs: Needs, places: Places) -> None:
        some, at = places.some(np.flatnonzero(needs & Need.PENALTY))
        counts, seen, rows = self.rows.counts, self.rows.seen, some.rows
        assert counts is not None and seen is not None
        presence, frequency, repetition = (self.rows.numbers[k, rows, None] for k in (4, 5, 6))
        count = counts[rows]
        values = logits[at]
        met = seen[rows] | (count > 0)
        values = torch.where(met, torch.where(values > 0, values / repetition, values * repetition), values)
        logits[at] = values - frequency * count - presence * (count > 0)

    def _count(self, tokens: Tensor, needs: Needs, places: Places) -> None:
        some, at = places.some(np.flatnonzero(needs & Need.PENALTY))
        assert self.rows.counts is not None
        one = torch.ones(len(at), dtype=torch.int32, device=tokens.device)
        self.rows.counts.index_put_((some.rows, tokens[at]), one, accumulate=True)

    @staticmethod
    def _scored(logits: Tensor, tokens: Tensor, asked: Lines) -> Picked:
        count, device = len(tokens), logits.device
        alternatives = min(MAX_TOP_LOGPROBS, logits.shape[-1])
        logprobs = torch.zeros(count, device=device)
        ranks = torch.zeros(count, dtype=torch.int64, device=device)
        values = torch.zeros(count, alternatives, device=device)
        ids = torch.zeros(count, alternatives, dtype=torch.int64, device=device)
        for lines in _parts(asked):
            at = send(lines, device)
            some = score(logits[at], tokens[at])
            assert some.logprobs is not None and some.ranks is not None and some.top is not None
            logprobs[at], ranks[at], (values[at], ids[at]) = some.logprobs, some.ranks, some.top
        return Picked(tokens, logprobs, ranks, (values, ids))


def _parts(lines: Lines) -> list[Lines]:
    return [lines[begin : begin + TOGETHER] for begin in range(0, len(lines), TOGETHER)]


def _of(masks: Masks | None, lines: Lines) -> Masks | None:
    """The masks of these lines, which are in order, by their places among them."""
    if masks is None:
        return None
    among = np.isin(masks.lines, lines)
    at = np.searchsorted(lines, masks.lines[among]).astype(np.int32)
    return Masks(at, masks.bits[among]) if len(at) else None


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
