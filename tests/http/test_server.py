"""Heads, bodies and answers on a real socket, against an application that only echoes lengths."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from baton.core.errors import BatonError, BodyTooLarge, Cancelled, InvalidSetting, QueueFull
from baton.http import HttpServer, HttpSettings, Reply, application, expect, read_body, while_present

SETTINGS = HttpSettings(
    host="127.0.0.1", port=0, max_header_bytes=2048, max_body_bytes=100_000, header_s=0.4, body_s=0.4,
    keep_alive_s=1,
)  # fmt: skip
JSON = b"content-type: application/json\r\n"


class Echo:
    """Answers with the length of the body; /fail refuses, /break fails in mid-stream."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(receive, send, "req-1")
        try:
            expect(scope)
            body = await read_body(scope, receive, SETTINGS)
            if scope["path"] == "/fail":
                raise QueueFull("full")
            if scope["path"] == "/break":
                await reply.event(b"data: 1\n\n")
                raise RuntimeError("a secret")
            await reply.json(b"%d" % len(body))
        except (BatonError, RuntimeError) as error:
            await reply.fail(error)


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    routes = [Route(path, Echo(), methods=["POST"]) for path in ("/", "/fail", "/break")]
    async with HttpServer(application(routes), SETTINGS) as server:
        yield server.port


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(talk: Talk) -> None:
    """Have a client talk to a server."""

    async def both() -> None:
        async with served() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.timeout(20):
                    await talk(reader, writer)
            finally:
                writer.close()

    asyncio.run(both())


def request(body: bytes, head: bytes = JSON, path: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b" % (path, len(body), head, body)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else b""
    return int(first.split()[1]), headers, body


def reason(body: bytes) -> str:
    shown = json.loads(body)["error"]
    assert set(shown) == {"message", "type", "param", "code"}
    code: str = shown["code"]
    return code


def test_requests_follow_each_other_on_one_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for size in (5, 70_000, 1):
            writer.write(request(b"x" * size))
            status, headers, body = await answer(reader)
            assert (status, int(body), headers["x-request-id"]) == (200, size, "req-1")
            await asyncio.sleep(0.2)  # longer in all than a head may take
        assert await reader.read() == b"", "an idle connection is closed at last"

    run(talk)


@pytest.mark.parametrize("pieces", [[b"GET / HT"], [b"P", b"O", b"ST / HTTP/1.1\r\nx: ", b"y"]])
def test_a_head_that_drips_is_answered_and_closed(pieces: list[bytes]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.05)
        status, headers, body = await answer(reader)
        assert (status, reason(body), headers["connection"]) == (408, "request_timeout", "close")
        assert await reader.read() == b""
        assert 0.3 < time.monotonic() - began < 5

    run(talk)


def test_a_second_head_that_drips_is_no_better() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request(b"{}"))
        assert (await answer(reader))[0] == 200
        writer.write(b"POST /")
        assert (await answer(reader))[0] == 408

    run(talk)


def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""

    run(talk)


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nx: " + b"a" * 3000,  # never ends
        b"POST / HTTP/1.1\r\nx: " + b"a" * 3000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + b"x: aaaaaaaaaa\r\n" * 300 + b"\r\n",
        b"POST /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nx: " + b"a" * 500_000,
    ],
)
def test_a_huge_head_is_refused(head: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        status, headers, body = await answer(reader)
        assert (status, reason(body)) == (431, "headers_too_large")
        assert headers["x-baton-reason"] == "headers_too_large"
        assert await reader.read() == b""

    run(talk)


def test_what_is_no_http_is_told_so() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x16\x03\x01 is a TLS hello\r\n\r\n")
        status, _, body = await answer(reader)
        assert (status, reason(body)) == (400, "invalid_request")

    run(talk)


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_an_offer_of_another_protocol_is_declined_and_its_body_read(pause_s: float) -> None:
    """As Java's client makes it, on every connection without TLS."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n" + JSON
    chunked = b"POST / HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n" % offer

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for head, body in (
            (request(b"x" * 70_000, offer)[:-70_000], b"x" * 70_000),
            (chunked, b"11170\r\n" + b"x" * 70_000 + b"\r\n0\r\n\r\n"),
        ):
            writer.write(head)
            await asyncio.sleep(pause_s)
            writer.write(body)
            assert (await answer(reader))[::2] == (200, b"70000")
        writer.write(request(b"x", offer) + request(b"xx", offer.replace(b"Upgrade,", b"close, Upgrade,")))
        assert (await answer(reader))[2] == b"1"
        assert (await answer(reader))[2] == b"2"
        assert await reader.read() == b""

    run(talk)


def test_a_body_that_is_announced_too_large_is_not_awaited() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n%bcontent-length: 1000000000\r\n\r\n" % JSON)
        status, headers, body = await answer(reader)
        assert (status, reason(body), headers["connection"]) == (413, "request_too_large", "close")
        assert await reader.read() == b""

    run(talk)


def test_a_length_of_thousands_of_digits_is_a_large_one() -> None:
    async def nothing() -> Message:
        raise AssertionError("it was refused before it was read")

    scope = {"headers": [(b"content-length", b"0" * 5000 + b"5")]}
    with pytest.raises(BodyTooLarge, match="the most is 100000"):
        asyncio.run(read_body(scope, nothing, SETTINGS))


def test_a_client_that_sends_it_all_the_same_still_reads_the_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request(b"x" * 16_000_000))
        await writer.drain()
        assert (await answer(reader))[0] == 413

    run(talk)


def test_a_body_without_a_length_is_counted() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n" % JSON)
        for _ in range(30):
            writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        status, _, body = await answer(reader)
        assert (status, reason(body)) == (413, "request_too_large")

    run(talk)


def test_a_body_that_drips_is_given_up() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request(b"x" * 100)[:-50])
        status, _, body = await answer(reader)
        assert (status, reason(body)) == (408, "request_timeout")

    run(talk)


@pytest.mark.parametrize("dripping", [False, True])
def test_a_body_behind_its_answer_does_not_keep_a_connection_for_ever(dripping: bool) -> None:
    head = request(b"x" * 1000, b"content-type: text/plain\r\n")[:-1000]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        assert (await answer(reader))[0] == 415
        writer.write(b"x" * (1 if dripping else 1000))
        closed = asyncio.create_task(reader.read())
        while dripping and not closed.done():
            writer.write(b"x")
            await asyncio.sleep(0.1)
        with contextlib.suppress(ConnectionError):  # what it still sends may meet a closed socket
            assert await closed == b""

    run(talk)


def test_a_body_behind_its_answer_leaves_the_connection_to_the_next_request() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(request(b"x" * 10, b"content-type: text/plain\r\n")[:-10])
            assert (await answer(reader))[0] == 415
            writer.write(b"x" * 10 + request(b"xyz"))
            assert (await answer(reader))[2] == b"3"

    run(talk)


@pytest.mark.parametrize(
    "framing",
    [b"0\r\nx: " + b"a" * 500_000, b"0\r\n" + b"x: aaaaaaaaaa\r\n" * 30_000, b"1;x=" + b"a" * 500_000],
)
def test_what_frames_a_body_has_a_bound_too(framing: bytes) -> None:
    """Trailers and extensions of chunks, which no limit on a body's bytes sees."""
    patient = dataclasses.replace(SETTINGS, body_s=60.0)

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(Cancelled):
            await read_body(scope, receive, patient)

    async def talk() -> None:
        class Reads:
            __call__ = staticmethod(read)

        app = application([Route("/", Reads(), methods=["POST"])])
        async with HttpServer(app, patient) as server, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n" % JSON)
            writer.write(b"2\r\n{}\r\n" * 10_000 + framing)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(talk())


def test_refusals_say_why_and_when_to_come_back() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request(b"{}", path=b"/fail"))
        status, headers, body = await answer(reader)
        assert (status, reason(body), headers["retry-after"]) == (429, "queue_full", "1")
        assert headers["x-baton-reason"] == "queue_full"
        writer.write(request(b"{}", head=b"content-type: text/plain\r\n"))
        assert (await answer(reader))[0] == 415
        writer.write(request(b"{}", path=b"/nowhere"))
        status, headers, body = await answer(reader)
        assert (status, reason(body), headers["x-baton-reason"]) == (404, "not_found", "not_found")
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        status, headers, body = await answer(reader)
        assert (status, reason(body), headers["allow"]) == (405, "method_not_allowed", "POST")

    run(talk)


def test_a_stream_that_breaks_ends_with_an_error_and_no_secret() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request(b"{}", b"connection: close\r\n" + JSON, path=b"/break"))
        text = (await reader.read()).decode()
        assert "200 OK" in text and "data: 1\n\n" in text
        assert '"code":"internal_error"' in text and "secret" not in text and "[DONE]" not in text

    run(talk)


def test_a_client_that_leaves_with_requests_waiting_ends_the_one_that_is_answered() -> None:
    left = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(scope, receive, SETTINGS)
        await Reply(receive, send, "req-1").event(b"data: 1\n\n")
        with pytest.raises(Cancelled):
            async with while_present(receive):
                await asyncio.Event().wait()
        left.set()

    async def talk() -> None:
        class Endless:
            __call__ = staticmethod(endless)

        app = application([Route("/", Endless(), methods=["POST"])])
        async with HttpServer(app, SETTINGS) as server, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(2 * request(b"{}"))
            await reader.readuntil(b"data: 1")
            writer.close()
            await left.wait()

    asyncio.run(talk())


@pytest.mark.parametrize(
    "asked",
    [request(b"{}"), request(b"{}", b"connection: close\r\n" + JSON), 2 * request(b"{}")],
    ids=["kept", "closed", "asks more"],
)
def test_who_never_reads_an_answer_is_not_waited_for_for_ever(asked: bytes) -> None:
    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(scope, receive, SETTINGS)
        await Reply(receive, send, "req-1").json(b"x" * 16_000_000)

    async def talk() -> None:
        class Large:
            __call__ = staticmethod(large)

        app = application([Route("/", Large(), methods=["POST"])])
        async with HttpServer(app, SETTINGS) as server, asyncio.timeout(10):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(asked)
                assert await asyncio.to_thread(client.recv, 1) == b"H"
                while ": 0 connections" not in repr(server):
                    await asyncio.sleep(0.05)

    asyncio.run(talk())


def test_a_taken_port_is_a_setting_s_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InvalidSetting, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            HttpServer(application([]), SETTINGS, port)
    with pytest.raises(InvalidSetting, match=r"cannot listen on nowhere\.invalid:1: "):
        HttpServer(application([]), HttpSettings(host="nowhere.invalid"), 1)
