"""Spans as services see them, and those of a process that sends none: every call does nothing.

A service begins a span with what came with the request (`Tracing.serve`), passes `span.header` on, says what
it knows, and ends it once. Nothing is made or said per token. Times are of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HEADER: Final = "traceparent"
"""The W3C's name of the HTTP header that carries a trace from one service to the next."""

Mark = tuple[str, float]
"""What happened, and when by this host's monotonic clock."""


class Span:
    """This one is not recorded."""

    __slots__ = ()

    recorded = False
    trace = ""
    """The trace's id."""
    header = ""
    """What a service that works for this one is given: a `traceparent`. Empty: nobody decided anything."""

    def begin(self, name: str, **facts: object) -> Span:
        """A part of it that another service works at."""
        return self

    def tell(self, **facts: object) -> None:
        """Facts of it; None is nothing said."""

    def mark(self, what: str, **facts: object) -> None:
        """It happened now."""

    def marks(self, marks: Iterable[Mark]) -> None:
        """They happened then."""

    def end(self, failure: str = "") -> None:
        """Once, however it ended; `failure` says why it is one."""


class Tracing:
    """This one makes no spans."""

    __slots__ = ()

    def serve(self, name: str, header: str | None, began: float) -> Span:
        """A request's span in this service; `header` is the `traceparent` that it came with."""
        return NO_SPAN


NO_SPAN: Final = Span()
SILENT: Final = Tracing()
