"""Clients of HTTP/1.0 get a stream as it is: chunks are of 1.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from baton.core.errors import QueueFull
from baton.http import HttpServer, HttpSettings, Reply, application
from baton.http.straight import straight_of

SETTINGS = HttpSettings(
    host="127.0.0.1", port=0, max_header_bytes=2048, max_body_bytes=100_000, header_s=10, body_s=10,
    keep_alive_s=10,
)  # fmt: skip
PIECES = [b"data: %d\n\n" % number for number in range(6)]


class Told:
    """/events writes pieces both ways, /fail ends a stream by an error, all else has a length."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(receive, send, "req-1", straight_of(scope))
        if scope["path"] == "/whole":
            return await reply.json(b'"whole"')
        if scope["path"] == "/refused":
            return await reply.fail(QueueFull("full"))
        await reply.event(PIECES[0])
        if scope["path"] == "/fail":
            return await reply.fail(QueueFull("full"))
        assert reply.straight is not None
        for piece in PIECES[1:-1]:
            reply.straight.write(piece)
        await reply.end(PIECES[-1])


async def starlettes(request: object) -> StreamingResponse:
    return StreamingResponse(iter(PIECES))


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    routes = [Route(path, Told(), methods=["GET"]) for path in ("/events", "/fail", "/whole", "/refused")]
    async with HttpServer(application([*routes, Route("/starlettes", starlettes)]), SETTINGS) as server:
        yield server.port


def sent(asked: bytes) -> tuple[bytes, bytes]:
    """The head and the rest of all that comes until the server closes."""

    async def ask() -> bytes:
        async with served() as port, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(asked)
            told = await reader.read()
            writer.close()
            return told

    head, _, rest = asyncio.run(ask()).partition(b"\r\n\r\n")
    return head, rest


@pytest.mark.parametrize("path", ["/events", "/starlettes"])
@pytest.mark.parametrize("more", [b"", b"connection: keep-alive\r\n"], ids=["plain", "keep-alive"])
def test_a_stream_is_what_is_between_the_head_and_the_end(path: str, more: bytes) -> None:
    head, rest = sent(b"GET %b HTTP/1.0\r\n%b\r\n" % (path.encode(), more))
    assert head.startswith(b"HTTP/1.1 200 ") and b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert rest == b"".join(PIECES)


def test_a_stream_that_fails_ends_with_its_error() -> None:
    head, rest = sent(b"GET /fail HTTP/1.0\r\n\r\n")
    assert b"transfer-encoding" not in head and rest.startswith(PIECES[0] + b'data: {"error":')
    assert rest.endswith(b"}\n\n")


@pytest.mark.parametrize(("path", "status"), [("/whole", b"200"), ("/refused", b"429")])
def test_what_has_a_length_keeps_it(path: str, status: bytes) -> None:
    head, rest = sent(b"GET %b HTTP/1.0\r\n\r\n" % path.encode())
    assert head.split()[1] == status and b"content-length: %d\r\n" % len(rest) in head


def test_a_head_alone_has_no_body() -> None:
    head, rest = sent(b"HEAD /starlettes HTTP/1.0\r\n\r\n")
    assert head.split()[1] == b"200" and rest == b""


def test_clients_of_today_get_chunks_behind_and_before_one() -> None:
    """On one connection, which the older one's answer ends."""
    head, rest = sent(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\nGET /events HTTP/1.0\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    chunks, end, older = rest.partition(b"0\r\n\r\n")
    assert end and chunks == b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in PIECES)
    assert older.endswith(b"\r\n\r\n" + b"".join(PIECES)) and b"transfer-encoding" not in older
