"""One client's connection: uvicorn's, with a bound on the size and the time of each request's head.

uvicorn gives a head any size and for ever; here too much is answered 431, too slow 408, and what is no
HTTP 400, each in OpenAI's error shape. Bodies are the application's to bound (`body`). Who reads nothing of
an answer that has ended is let go.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from baton.core.errors import BatonError, HeadersTooLarge, InvalidRequest, TooSlow
from baton.http.older import OLDER, unframed
from baton.http.reply import LINGER_S, refusal
from baton.http.settings import HttpSettings
from baton.http.straight import EXTENSION, Straight

OFFERS = (b"upgrade", b"connection", b"http2-settings")
"""Headers in which a client offers to speak something else."""

CHUNK_BYTES = 32
"""What a chunk may have besides its data."""


class Connection(HttpToolsProtocol):
    def __init__(self, *, settings: HttpSettings, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._settings = settings
        self._in_head = True
        """A head is awaited, or arriving."""
        self._head_bytes = 0
        self._framing_bytes = 0
        """Came behind the head and are no body, less what chunks may take for their lengths."""
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        """While the client does not keep up with what it is sent."""
        self._refused: BatonError | None = None
        self._started: RequestResponseCycle | None = None
        """The request that is being answered, or was last: others may wait behind it."""
        self._offered = False
        """The head at hand offers another protocol; the parser has left HTTP behind it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn wants its narrower type
        self._straight = Straight(self.transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._watch_unread(None)
        super().connection_lost(exc)
        if self._started is not None and not self._started.response_complete:
            self._started.disconnected = True  # uvicorn tells the last request alone
            self._started.message_event.set()
        self._straight.resumed()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._straight.paused()
        self._watch_unread(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._straight.resumed()
        self._watch_unread(None)

    def _watch_unread(self, size: int | None) -> None:
        """Look again at so many bytes that wait for the client; None ends it."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        if size is not None:
            self._unread = self.loop.call_later(self._settings.keep_alive_s, self._look_unread, size)

    def _look_unread(self, before: int) -> None:
        """A stream waits for its client until its deadline; what is behind an answer's end waits for one that
        reads. uvicorn closes such a connection, and closing waits for ever."""
        size = self.transport.get_write_buffer_size()
        at_hand = self._started
        streaming = at_hand is not None and at_hand.response_started and not at_hand.response_complete
        if size >= before and (self.transport.is_closing() or not streaming):
            self.transport.abort()
        else:
            self._watch_unread(size)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {EXTENSION: self._straight}
        self.scope["extensions"] = extensions

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._start_timer()
        else:
            self._framing_bytes += len(data)
        self._parse(data)
        size = self._head_bytes if self._in_head else self._framing_bytes
        if size > self._settings.max_header_bytes:
            self._refuse(self._too_large())
        if self.cycle is not None and self.cycle.response_complete:
            self._await_next()

    def _await_next(self) -> None:
        """What came is of a body that was answered before it was there: the connection idles anew."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _parse(self, data: bytes) -> None:
        """uvicorn's `data_received`, but for offers."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
        except httptools.HttpParserUpgrade as upgrade:
            if self._offered:
                self._decline(data[upgrade.args[0] :])

    def _decline(self, rest: bytes) -> None:
        """Go on in HTTP/1.1 as if another protocol had not been offered: Java's client offers HTTP/2 on every
        plain connection, and takes what lies behind such a head for the body that it is."""
        self._offered = False
        before, self.parser = self.parser, httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        first = b"%b %b HTTP/%b" % (before.get_method(), self.url, before.get_http_version().encode())
        kept = [b"%b: %b" % one for one in self.headers if one[0] not in OFFERS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            kept.append(b"connection: close")
        self._parse(b"\r\n".join([first, *kept, b"", rest]))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offered = True
            return
        self._stop_timer()
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._settings.max_header_bytes:
            self._refuse(self._too_large())
            raise self._too_large()  # ends the parsing; `send_400_response` finds it answered
        self._framing_bytes = 0
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what trails a body is read by nobody
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._framing_bytes -= CHUNK_BYTES

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._stop_timer()
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._started = cycle
        older = cycle.scope["http_version"] == OLDER
        self._straight.framed = not older
        super()._start_asgi_task(cycle, unframed(app, cycle) if older else app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete:
            # It was refused before its body was read; that goes by, for as long as a body may take.
            self._timer = self.loop.call_later(self._settings.body_s, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("this is not HTTP/1.1"))

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._settings.header_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._answering:
            self._start_timer()  # bytes after a body keep nobody waiting yet
        elif self._head_bytes:
            self._refuse(TooSlow(f"the headers took more than {self._settings.header_s:g} seconds"))
        else:
            self.transport.close()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"the headers have more than {self._settings.max_header_bytes} bytes")

    def _refuse(self, error: BatonError) -> None:
        """Answer, hear nothing more, and close when the client had time to read it."""
        if self._refused is not None or self.transport.is_closing():
            return
        self._refused = error
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self._answering:
            # An answer to the request before is on its way; words between its lines would corrupt it.
            self.transport.close()
            return
        self.transport.write(refusal(error))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
