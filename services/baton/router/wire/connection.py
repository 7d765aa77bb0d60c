"""One connection to a pod: a request out, its answer in, as it comes.

Whoever holds it asks once at a time: `ask`, then `read` until it is empty. What arrives and is not
read waits here, up to a bound; beyond it the socket is left alone, so that the pod's writes slow down.
Every way in which it can fail is a PeerLost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import httptools

from baton.core.errors import PeerLost

HIGH_BYTES = 65536
"""What may wait unread."""


class Flow(Enum):
    """What a sink says after each piece."""

    GO = "go"
    HOLD = "hold"
    """Not now: read nothing more until told to go on."""
    STOP = "stop"
    """That was all it wanted."""


GO, HOLD, STOP = Flow.GO, Flow.HOLD, Flow.STOP
Sink = Callable[[bytes], Flow]


class Head(NamedTuple):
    """How an answer begins."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case; of a repeated one the last."""


class Connection(asyncio.Protocol):
    """Made by a `Pool`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._complete = True
        self._lost: str | None = None
        self._sink: Sink | None = None
        self._sunk = self._held = False
        self._fault: Exception | None = None
        self.answered = False
        """Any byte came back for the request at hand."""
        self.requests = 0
        """How many it was asked, this one included."""

    # ---- whoever holds it ----

    async def ask(self, request: bytes) -> Head:
        """Send a whole request; the head of its answer."""
        assert self._complete, "one request at a time"
        self._status, self._headers = 0, {}
        self._complete = self.answered = self._held = False
        self.requests += 1
        if self._transport is None:
            raise self._error()
        self._transport.write(request)
        while not self._status:
            await self._wait()
        return Head(self._status, self._headers)

    async def read(self) -> bytes:
        """What has come of the body since the last call, at least one byte; empty when that was all."""
        while not self._parts:
            if self._complete:
                return b""
            await self._wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def pour(self, sink: Sink) -> None:
        """Give each piece of the body to `sink` as it comes, until the body or the sink ends. Raises what the
        sink raises. After a HOLD nothing is read until `go_on`."""
        self._sink, self._sunk = sink, False
        self._drain()
        try:
            while not self._sunk and not (self._complete and not self._parts):
                await self._wait()
        finally:
            self._sink = None
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def go_on(self) -> None:
        """The sink takes more."""
        self._held = False
        if self._sink is not None:
            self._drain()
            if self._sunk or self._complete:
                self._wake()
        if self._paused and not self._held and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    async def read_all(self, most: int) -> bytes:
        """The whole body, which may not have more bytes than this."""
        parts, size = [], 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > most:
                raise PeerLost(f"an answer of more than {most} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def reusable(self) -> bool:
        """The answer was read to its end, and the connection may carry another."""
        return self._complete and self._transport is not None and not self._parts and not self._paused

    def abort(self, reason: str = "given up") -> None:
        """Close at once: the pod sees its client leave."""
        if self._lost is None:
            self._lost = reason
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._wake()

    # ---- the socket's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's class is no subclass

    def data_received(self, data: bytes) -> None:
        if self._complete:
            self.abort("it spoke without being asked")
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort(f"it does not speak HTTP: {error}")
            return
        if self._sink is not None:
            self._drain()
            if not self._sunk and not self._complete:
                return
        elif self._size > HIGH_BYTES:
            self._pause()
        self._wake()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._lost is None:
            self._lost = str(exc) if exc else "closed by the pod"
        self._wake()

    # ---- the parser's side ----

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        if not self._status:
            return  # 100 Continue
        self._complete = True
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
            self._transport = None

    # ---- ----

    def _drain(self) -> None:
        """Pour what has come."""
        assert self._sink is not None
        if not self._parts or self._held or self._sunk:
            return
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        try:
            said = self._sink(data)
        except Exception as error:
            self._fault, said = error, STOP
        if said is STOP:
            self._sunk = True
        elif said is HOLD:
            self._held = True
            self._pause()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    async def _wait(self) -> None:
        if self._lost is not None and not self._complete:
            raise self._error()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _error(self) -> PeerLost:
        return PeerLost(f"the connection was lost: {self._lost}")
