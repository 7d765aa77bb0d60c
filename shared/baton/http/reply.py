"""One answer to one request: JSON, or a stream of events; a failure in the form that still fits.

Whoever answers a request owns its Reply. Before anything was sent a failure is an HTTP status with
OpenAI's error body and its reason in a header; once a stream has begun it is an error event, without
`[DONE]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Collection, Iterable
from http import HTTPStatus

from starlette.types import Receive, Send

from baton.core.errors import BatonError, BodyTooLarge, Failed, Refused, TooSlow
from baton.http.straight import Straight
from baton.openai.failures import error_body, error_event, status_of

Header = tuple[bytes, bytes]

JSON = (b"content-type", b"application/json")
EVENTS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would gather events
)
CLOSE = (b"connection", b"close")
LINGER_S = 1.0
"""How long a refused client may go on sending: closing at once could lose the answer on its way to it."""
LAST_WORD_S = 1.0
"""How long the error event of a stream may wait for a client that does not read."""


def failure_headers(error: BaseException) -> list[Header]:
    """What a refusal's headers say besides its body."""
    code = error.code if isinstance(error, BatonError) else BatonError.code
    headers = [(b"x-baton-reason", code.encode())]
    if isinstance(error, (Refused, Failed)) and error.retryable:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, (BodyTooLarge, TooSlow)):
        headers.append(CLOSE)  # what the client still sends is not waited for
    return headers


def refusal(error: BaseException) -> bytes:
    """A whole HTTP/1.1 answer, for a connection on which no request could be read."""
    body, status = error_body(error), HTTPStatus(status_of(error))
    headers = [JSON, (b"content-length", b"%d" % len(body)), *failure_headers(error)]
    lines = [b"HTTP/1.1 %d %b" % (status, status.phrase.encode())]
    lines += [name + b": " + value for name, value in headers if name != b"connection"]
    return b"\r\n".join([*lines, b"connection: close", b"", body])


class Reply:
    __slots__ = ("_headers", "_receive", "_send", "status", "straight")

    def __init__(
        self, receive: Receive, send: Send, request_id: str, straight: Straight | None = None
    ) -> None:
        self.status = 0
        """What was answered; 0 before."""
        self.straight = straight
        """For the middle of a long stream, where the server offers it."""
        self._receive = receive
        self._send = send
        self._headers: list[Header] = [(b"x-request-id", request_id.encode())]

    def tell(self, name: str, value: str) -> None:
        """One more header, before anything was sent. The value is ours: printable ASCII."""
        key = name.encode()
        self._headers = [one for one in self._headers if one[0] != key]
        self._headers.append((key, value.encode()))

    async def json(self, body: bytes, status: int = 200, headers: Collection[Header] = ()) -> None:
        await self._begin(status, [JSON, (b"content-length", b"%d" % len(body)), *headers])
        if CLOSE in headers:
            await self._write(body)
            await self._linger()
            body = b""
        await self.end(body)

    async def event(self, data: bytes) -> None:
        """The next of a stream's events; the first begins the stream. Returns when the client has taken
        most of what it was sent: a slow one slows its writer."""
        if not self.status:
            await self._begin(200, EVENTS)
        await self._write(data)

    async def end(self, data: bytes = b"") -> None:
        """The last of an answer; all of it, if it is a stream that has no more."""
        if not self.status:
            await self._begin(200, EVENTS)
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def fail(self, error: BaseException, headers: Collection[Header] = ()) -> None:
        """`headers` are for a failure that is the whole answer."""
        if not self.status:
            await self.json(error_body(error), status_of(error), [*failure_headers(error), *headers])
            return
        async with asyncio.timeout(LAST_WORD_S):
            await self.end(error_event(error))

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _linger(self) -> None:
        """Let the rest of a body go by, for a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body"):
                    pass

    async def _begin(self, status: int, headers: Iterable[Header]) -> None:
        self.status = status
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*self._headers, *headers]}
        )
