"""Begins and ends a process's traces. A service's `run` holds `tracing_to` open around everything it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from baton.core.errors import InvalidSetting
from baton.trace.settings import TraceSettings
from baton.trace.span import SILENT, Tracing


@contextmanager
def tracing_to(settings: TraceSettings, service: str, name: str) -> Iterator[Tracing]:
    """`service` is what all its processes are called, `name` this one. Not before a fork: a thread sends."""
    if not settings.endpoint:
        yield SILENT
        return
    try:
        from baton.trace.otlp import Otlp
    except ImportError as error:
        raise InvalidSetting("trace.endpoint", f"needs OpenTelemetry's packages: {error}") from error
    tracing = Otlp(settings, service, name)
    try:
        yield tracing
    finally:
        tracing.close()
