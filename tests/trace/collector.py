"""A collector of spans: OTLP over HTTP on a port of the loopback, kept in a list."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Seen(NamedTuple):
    """One span."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    facts: dict[str, Any]
    events: list[str]
    times_ns: list[int]
    """Its beginning, its events', its end."""
    kind: int
    failed: bool
    about: dict[str, Any]
    """Of the process that sent it."""


class Collector:
    """Use as `with`. While `deaf` it takes what is sent and answers nothing."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Seen] = []
        self.paths: set[str] = set()
        self.asked = threading.Event()
        """Somebody has sent something."""
        self.deaf = threading.Event()
        self._hear = threading.Event()
        collector = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.add(self.path)
                collector.asked.set()
                if collector.deaf.is_set():
                    collector._hear.wait(60)
                    return
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.spans += seen(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Door)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def until(self, true: Callable[[list[Seen]], bool], seconds: float = 20.0) -> list[Seen]:
        """The spans, once this is true of them."""
        deadline = time.monotonic() + seconds
        while not true(self.spans):
            assert time.monotonic() < deadline, f"waited {seconds} s in vain: {self.spans}"
            time.sleep(0.02)
        return list(self.spans)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hear.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def seen(request: ExportTraceServiceRequest) -> list[Seen]:
    found = []
    for resource in request.resource_spans:
        about = facts_of(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                times = [span.start_time_unix_nano, *(one.time_unix_nano for one in span.events)]
                found.append(
                    Seen(
                        about["service.name"], span.name, span.trace_id.hex(), span.span_id.hex(),
                        span.parent_span_id.hex(), facts_of(span.attributes),
                        [one.name for one in span.events], [*times, span.end_time_unix_nano],
                        span.kind, span.status.code == 2, about,
                    )
                )  # fmt: skip
    return found


def facts_of(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
