"""The spans of legs, from being asked to the last page. The desk owns one and is its only caller."""

from __future__ import annotations

import time

from baton.protocol import engine as wire
from baton.protocol import pods
from baton.trace import Span, Tracing


class LegSpans:
    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: dict[str, Span] = {}
        """By attempt; of those that are recorded."""

    def begin(self, leg: pods.Leg, decode: str) -> None:
        """`decode`: the pod that asks."""
        span = self._tracing.serve("leg", leg.trace or None, time.monotonic())
        if span.recorded:
            tokens = len(leg.request.token_ids) + len(leg.request.generated)
            span.tell(attempt=leg.attempt, decode=decode, prompt_tokens=tokens, pages=len(leg.pages))
            self._open[leg.attempt] = span

    def first(self, attempt: str, update: wire.Update) -> None:
        """Its first token, which brings when what happened until then."""
        span = self._open.get(attempt)
        if span is not None:
            span.marks(update.course.marks if update.course else ())
            span.tell(cached=update.cached)

    def end(self, attempt: str, failure: str = "", seconds: float = 0.0) -> None:
        """`seconds`: that its pages were on their way."""
        span = self._open.pop(attempt, None)
        if span is not None:
            span.tell(moved_seconds=round(seconds, 6))
            span.end(failure)
