"""Spans sent with OpenTelemetry's SDK, as OTLP over HTTP. Imported only where an endpoint is set.

A thread sends them, a second's worth at a time; requests only append to a bounded queue. A collector that is
gone costs spans, two lines in the log (it is lost, it is back), and at most FLUSH_S when the process ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span as Sdk
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as SdkTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from baton.core.version import version
from baton.trace.settings import TraceSettings
from baton.trace.span import HEADER, Mark, Span, Tracing

log = logging.getLogger("baton.trace")

PATH = "/v1/traces"
DELAY_MS = 1000
"""A span waits so long at most for others to be sent with."""
QUEUED = 4096
"""Spans that may wait; the oldest of more are lost."""
BATCH = 512
ANSWER_S = 5.0
"""A collector that has not taken a batch by then has lost it."""
FLUSH_S = 2.0

STANDARD: Mapping[str, str] = {
    "status": "http.response.status_code",
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "generated_tokens": "gen_ai.usage.output_tokens",
}
"""Facts that OpenTelemetry's conventions have a name for; all others are `baton.…`."""

_propagator = TraceContextTextMapPropagator()


class Recorded(Span):
    __slots__ = ("_sdk", "_tracer", "header", "recorded", "trace")

    def __init__(self, tracer: SdkTracer, sdk: Sdk) -> None:
        self._tracer = tracer
        self._sdk = sdk
        context = sdk.get_span_context()
        self.recorded = sdk.is_recording()
        self.trace = f"{context.trace_id:032x}"
        self.header = f"00-{self.trace}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def begin(self, name: str, **facts: object) -> Span:
        if not self.recorded:
            return self
        within = set_span_in_context(self._sdk)
        part = self._tracer.start_span(name, within, SpanKind.CLIENT, attributes=attributes(facts))
        return Recorded(self._tracer, part)

    def tell(self, **facts: object) -> None:
        if self.recorded:
            self._sdk.set_attributes(attributes(facts))

    def mark(self, what: str, **facts: object) -> None:
        if self.recorded:
            self._sdk.add_event(what, attributes(facts))

    def marks(self, marks: Iterable[Mark]) -> None:
        if self.recorded:
            for what, at in marks:
                self._sdk.add_event(what, timestamp=wall_ns(at))

    def end(self, failure: str = "") -> None:
        if self.recorded:
            if failure:
                self._sdk.set_status(Status(StatusCode.ERROR, failure))
            self._sdk.end()


class Otlp(Tracing):
    __slots__ = ("_exporter", "_provider", "_tracer")

    def __init__(self, settings: TraceSettings, service: str, name: str) -> None:
        # What it has to say of a collector that is gone, `_Exporter` says once instead of with each batch.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        about = {"service.name": service, "service.instance.id": name, "service.version": version()}
        self._exporter = _Exporter(OTLPSpanExporter(address(settings.endpoint), timeout=ANSWER_S))
        self._provider = TracerProvider(
            ParentBasedTraceIdRatio(settings.sample), Resource.create(about), shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=QUEUED,
                schedule_delay_millis=DELAY_MS,
                max_export_batch_size=BATCH,
            )
        )
        self._tracer = self._provider.get_tracer("baton", version())

    def serve(self, name: str, header: str | None, began: float) -> Span:
        # Read with its own reader: what is no `traceparent` begins a trace of its own.
        before = _propagator.extract({HEADER: header}) if header else None
        return Recorded(
            self._tracer, self._tracer.start_span(name, before, SpanKind.SERVER, start_time=wall_ns(began))
        )

    def close(self) -> None:
        """Send what waits, for FLUSH_S at most."""
        flushing = threading.Thread(target=self._provider.shutdown, name="trace-flush", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
        if flushing.is_alive():
            log.warning("the last spans were not sent in time")
            self._exporter.shutdown()


class _Exporter(SpanExporter):
    """The real one, and a word when the collector is lost or back."""

    def __init__(self, real: OTLPSpanExporter) -> None:
        self._real = real
        self._lost = self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._real.export(spans)
        lost = result is not SpanExportResult.SUCCESS
        if lost and not self._lost:
            log.warning("spans are lost: the collector does not take them")
        if self._lost and not lost:
            log.info("the collector takes spans again")
        self._lost = lost
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._real.shutdown()  # type: ignore[no-untyped-call]


def attributes(facts: Mapping[str, object]) -> dict[str, AttributeValue]:
    """As OpenTelemetry takes them: plain values under full names."""
    return {
        STANDARD.get(name, f"baton.{name}"): _plain(value)
        for name, value in facts.items()
        if value is not None
    }


def _plain(value: object) -> AttributeValue:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [str(one) for one in value]
    return str(value)


def address(endpoint: str) -> str:
    """Of the collector's door for traces: a base address gets the usual path."""
    base = endpoint.rstrip("/")
    return base if base.partition("://")[2].find("/") >= 0 else base + PATH


def wall_ns(at: float) -> int:
    """Nanoseconds since 1970 of a moment of the monotonic clock."""
    return time.time_ns() - round((time.monotonic() - at) * 1e9)
