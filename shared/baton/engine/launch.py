"""From decisions to a batch: whom a step concerns, and the same as arrays for the runners."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Listing
from dataclasses import dataclass

import numpy as np

from baton.engine.batch import Batch
from baton.engine.sequence import Sequence
from baton.sampling.fresh import Fresh, Ints
from baton.sampling.masks import Masks


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a sequence's known tokens that one step computes."""

    sequence: Sequence
    start: int
    tokens: int
    samples: bool
    scores: bool
    """Whether the log-probabilities of the prompt's tokens are wanted from it."""

    @property
    def following(self) -> list[int]:
        """The prompt tokens that come after each of the span's own."""
        sequence = self.sequence
        return sequence.tokens[self.start + 1 : min(self.start + self.tokens + 1, sequence.prompt)]


@dataclass(frozen=True, slots=True)
class Launch:
    """A batch, and whom it concerns."""

    batch: Batch
    spans: tuple[Span, ...]
    decodes: tuple[Sequence, ...]


def assemble(
    step: int, fresh: tuple[Fresh, ...], table: Mapping[tuple[int, int], int],
    spans: Listing[Span], decodes: Listing[Sequence], masks: Masks | None,
) -> Batch:  # fmt: skip
    ids: list[int] = []
    for span in spans:
        ids += span.sequence.tokens[span.start : span.start + span.tokens]
    return Batch(
        step=step,
        fresh=fresh,
        table=(
            _ints([row for row, _ in table]),
            _ints([column for _, column in table]),
            _ints(list(table.values())),
        ),
        span_rows=_ints([s.sequence.row for s in spans]),
        span_starts=_ints([s.start for s in spans]),
        span_tokens=_ints([s.tokens for s in spans]),
        span_samples=np.asarray([s.samples for s in spans], dtype=np.bool_),
        following=tuple(_ints(s.following) if s.scores else None for s in spans),
        ids=_ints(ids),
        decode_rows=_ints([s.row for s in decodes]),
        decode_positions=_ints([s.computed for s in decodes]),
        masks=masks,
    )


def fresh_of(sequence: Sequence, last: int) -> Fresh:
    """What the runner is told when a sequence takes its row; `last` as in `Fresh`."""
    sampling = sequence.request.sampling
    penalties = (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty)
    tokens = np.asarray(sequence.tokens if penalties != (0.0, 0.0, 1.0) else (), dtype=np.int32)
    stops = tuple(sorted(sequence.stops))
    return Fresh(sequence.row, sampling, stops, sequence.prompt, tokens, last)


def _ints(values: list[int]) -> Ints:
    return np.asarray(values, dtype=np.int32)
