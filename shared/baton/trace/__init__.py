"""Traces: what one request did in router, decode pod and prefill pod, under one id. Torch-free.

Costs nothing where no endpoint is set: OpenTelemetry is not even imported then.
"""

from baton.trace.settings import TraceSettings
from baton.trace.span import HEADER, NO_SPAN, SILENT, Span, Tracing
from baton.trace.start import tracing_to

__all__ = ["HEADER", "NO_SPAN", "SILENT", "Span", "TraceSettings", "Tracing", "tracing_to"]
