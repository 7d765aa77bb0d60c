"""One step's work and its result, as plain host values.

The scheduler makes a `Batch` on rank 0; every rank's runner carries out the same one. Nothing here
knows torch. Rows are the engine's places for sequences that hold pages: a row of the page table,
of the last tokens and of the sampling state. Row 0 is scratch and belongs to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.core.types import TokenLogprob
from baton.sampling.fresh import Fresh, Ints
from baton.sampling.masks import Masks


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: prefill spans first, then decodes. Arrays are int32 and never change."""

    step: int
    fresh: tuple[Fresh, ...]
    """Rows newly taken, before anything else of the step."""
    table: tuple[Ints, Ints, Ints]
    """(rows, columns, pages) to write into the page table before the step."""
    span_rows: Ints
    span_starts: Ints
    """Position of each span's first new token."""
    span_tokens: Ints
    """New tokens of each span."""
    span_samples: npt.NDArray[np.bool_]
    """Whether the span ends its prompt, so that a token is sampled after it."""
    following: tuple[Ints | None, ...]
    """For spans whose prompt is to be scored: the prompt tokens that follow each of the span's own."""
    ids: Ints
    """Token ids of all spans, in order."""
    decode_rows: Ints
    decode_positions: Ints
    """Position of the token each decode feeds in."""
    masks: Masks | None = None
    """What may be sampled, where not everything may."""

    @property
    def tokens(self) -> int:
        return len(self.ids) + len(self.decode_rows)

    def __repr__(self) -> str:
        spans = f"{len(self.span_rows)} spans of {len(self.ids)} tokens"
        return f"<Batch {self.step}: {spans}, {len(self.decode_rows)} decodes>"


@dataclass(frozen=True, slots=True)
class Flat:
    """A batch laid out: S spans, decodes among them, N tokens one after the other."""

    rows: Ints
    """[S]."""
    new: Ints
    """[S] tokens."""
    starts: Ints
    """[S + 1] first token of each."""
    lengths: Ints
    """[S] of each sequence, its new tokens included."""
    positions: Ints
    """[N]."""
    token_rows: Ints
    """[N]."""
    lines: Ints
    """Tokens after which one is sampled; their rows, and the positions of what is sampled."""
    sampled_rows: Ints
    sampled_at: Ints


def flatten(batch: Batch) -> Flat:
    decodes = len(batch.decode_rows)
    new = np.concatenate([batch.span_tokens, np.ones(decodes, dtype=np.int32)])
    rows = np.concatenate([batch.span_rows, batch.decode_rows])
    begins = np.concatenate([batch.span_starts, batch.decode_positions])
    starts = np.zeros(len(new) + 1, dtype=np.int32)
    np.cumsum(new, out=starts[1:])
    positions = np.arange(starts[-1], dtype=np.int32) + np.repeat(begins - starts[:-1], new)
    lengths = begins + new
    picks = np.concatenate([batch.span_samples, np.ones(decodes, dtype=np.bool_)])
    return Flat(
        rows, new, starts, lengths, positions, np.repeat(rows, new),
        (starts[1:] - 1)[picks], rows[picks], lengths[picks],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step produced, in the order: spans that sample, then decodes."""

    tokens: npt.NDArray[np.int64]
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    """Of the sampled tokens; None when no row asked."""
    scores: tuple[tuple[TokenLogprob, ...], ...] = ()
    """For every span that asked, in order: log-probabilities of the tokens that follow each of its own,
    except the sampled one."""
