"""HTTP/1.1 for simulated workers, thin enough that a benchmark measures who asks and not who answers.

One `Line` per connection: it gathers a request, hands it to the worker, and offers writing back. No bounds on
what comes in: never let strangers near it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools

_STATUS = {
    200: b"OK",
    404: b"Not Found",
    412: b"Precondition Failed",
    429: b"Too Many Requests",
    500: b"Error",
    503: b"Unavailable",
}
EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Line(asyncio.Protocol):
    """One client's connection. `asked` is called with each whole request, `left` when the client is gone."""

    def __init__(self, asked: Callable[[Line], None], left: Callable[[Line], None]) -> None:
        self._asked = asked
        self._left = left
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._aborted = False
        self.method = ""
        self.path = ""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.paused = False
        """The client does not read."""
        self.work: Any = None
        """Whatever the worker does for it now."""

    # ---- asyncio's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        if self._aborted:  # while it was being accepted
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._left(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    # ---- the parser's side ----

    def on_message_begin(self) -> None:
        self.path, self.headers, self._parts = "", {}, []

    def on_url(self, url: bytes) -> None:
        self.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self.body = b"".join(self._parts)
        self.method = self._parser.get_method().decode()
        self._asked(self)

    # ---- the worker's side ----

    @property
    def open(self) -> bool:
        return self._transport is not None

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """`headers` are whole lines."""
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
        self.write(head % (status, _STATUS.get(status, b"-"), len(body), headers) + body)

    def begin(self) -> None:
        self.write(EVENTS_HEAD)

    def chunk(self, data: bytes) -> None:
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.write(b"0\r\n\r\n")

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        """As a killed process would leave it."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()
