"""One backend for prefill spans and another for decodes, seen as one.

A step of one kind goes to its backend whole; a mixed step is cut where the decodes begin. Used by the
engine when the best kernels of the two phases come from different places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from baton.attention.base import (
    Attention,
    Capturable,
    CapturableSpans,
    GraphAttention,
    HostShape,
    Spans,
    SpansAttention,
)
from baton.core.errors import Misconfigured


class ByPhase:
    def __init__(self, prefill: Attention, decode: Attention) -> None:
        self.prefill = prefill
        self.decode = decode
        self._halves: tuple[Spans, Spans] | None = None

    def plan(self, spans: Spans) -> None:
        self._halves = None
        if spans.prefills == 0:
            self.decode.plan(spans)
        elif spans.prefills == len(spans.rows):
            self.prefill.plan(spans)
        else:
            front, back = self._halves = halves(spans)
            self.prefill.plan(front)
            self.decode.plan(back)

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        if self._halves is None:
            backend = self.decode if spans.prefills == 0 else self.prefill
            return backend.attend(q, layer, spans, out)
        front, back = self._halves
        cut = len(front.positions)
        if out is None:
            out = torch.empty_like(q).flatten(1)
        self.prefill.attend(q[:cut], layer, front, out[:cut])
        self.decode.attend(q[cut:], layer, back, out[cut:])
        return out

    def graph(self, size: int) -> GraphAttention:
        if not isinstance(self.decode, Capturable):
            raise Misconfigured(f"{self.decode!r} cannot be captured; set graph_max_batch to 0")
        return self.decode.graph(size)

    def graph_spans(self, size: int) -> SpansAttention | None:
        return self.decode.graph_spans(size) if isinstance(self.decode, CapturableSpans) else None


def halves(spans: Spans) -> tuple[Spans, Spans]:
    """The prefill spans and the decodes of a mixed step, each as a step of its own."""
    at, decodes = spans.prefills, len(spans.rows) - spans.prefills
    cut = len(spans.positions) - decodes  # a decode is one token
    host = spans.host
    front = Spans(
        table=spans.table, rows=spans.rows[:at], starts=spans.starts[: at + 1], lengths=spans.lengths[:at],
        positions=spans.positions[:cut], token_rows=spans.token_rows[:cut], prefills=at,
        host=None if host is None else HostShape(host.new[:at], host.lengths[:at]),
    )  # fmt: skip
    back = Spans(
        table=spans.table, rows=spans.rows[at:], starts=spans.starts[at:] - cut, lengths=spans.lengths[at:],
        positions=spans.positions[cut:], token_rows=spans.token_rows[cut:], prefills=0,
        host=None if host is None else HostShape(host.new[at:], host.lengths[at:]),
    )  # fmt: skip
    return front, back
