"""A batch on its way from rank 0 to the following ranks."""

from __future__ import annotations

import numpy as np

from baton.engine.batch import Batch
from baton.protocol.engine import FreshRow, Step
from baton.sampling.fresh import Fresh, Ints
from baton.sampling.masks import Masks


def to_step(batch: Batch) -> Step:
    arrays = (
        *batch.table, batch.span_rows, batch.span_starts, batch.span_tokens,
        batch.span_samples.astype(np.int32), batch.ids, batch.decode_rows, batch.decode_positions,
    )  # fmt: skip
    fresh = [FreshRow(f.row, f.sampling, f.stops, f.prompt, f.tokens.tobytes(), f.last) for f in batch.fresh]
    following = [None if f is None else f.tobytes() for f in batch.following]
    masks = None if batch.masks is None else (batch.masks.lines.tobytes(), batch.masks.bits.tobytes())
    return Step(batch.step, fresh, [a.tobytes() for a in arrays], following, masks)


def from_step(step: Step) -> Batch:
    a = [_ints(data) for data in step.arrays]
    fresh = tuple(Fresh(f.row, f.sampling, f.stops, f.prompt, _ints(f.tokens), f.last) for f in step.fresh)
    return Batch(
        step=step.step,
        fresh=fresh,
        table=(a[0], a[1], a[2]),
        span_rows=a[3],
        span_starts=a[4],
        span_tokens=a[5],
        span_samples=a[6].astype(np.bool_),
        following=tuple(None if f is None else _ints(f) for f in step.following),
        ids=a[7],
        decode_rows=a[8],
        decode_positions=a[9],
        masks=None if step.masks is None else _masks(*step.masks),
    )


def _masks(lines: bytes, bits: bytes) -> Masks:
    rows = _ints(lines)
    # A copy: torch wants arrays that may be written to.
    return Masks(rows, np.frombuffer(bits, dtype=np.uint8).reshape(len(rows), -1).copy())


def _ints(data: bytes) -> Ints:
    return np.frombuffer(data, dtype=np.int32)
