"""The client that routers speak to pods with, against a server that says exactly what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from baton.core.errors import InvalidField, PeerLost, Unreached
from baton.router.wire import GO, HOLD, STOP, Connection, Flow, Origin, Pool, fetch, origin_of

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Thing: Yes\r\n\r\nhi"
ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def story(talk: Talk, tell: Callable[[Pool, Origin], Coroutine[Any, Any, None]]) -> None:
    async def both() -> None:
        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(served, "127.0.0.1", 0)
        pool = Pool()
        async with server:
            await tell(pool, Origin("127.0.0.1", server.sockets[0].getsockname()[1]))
        pool.close()
        await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(both(), 20))


async def asked(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")


def test_a_connection_is_kept_and_used_again() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await asked(reader)
            writer.write(OK[:30])  # heads come in pieces too
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(OK[30:])

    async def tell(pool: Pool, origin: Origin) -> None:
        for number in range(3):
            async with pool.lend(origin) as connection:
                head = await connection.ask(ASK)
                assert (head.status, head.headers[b"x-thing"]) == (200, b"Yes")
                assert await connection.read_all(10) == b"hi" and connection.requests == number + 1

    story(talk, tell)
    assert connections == 1


def test_what_was_not_read_to_its_end_is_closed() -> None:
    gone = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(CHUNKED + b"2\r\nhi\r\n")
        await reader.read()
        gone.set()

    async def tell(pool: Pool, origin: Origin) -> None:
        async with pool.lend(origin) as connection:
            await connection.ask(ASK)
            assert await connection.read() == b"hi"
        await asyncio.wait_for(gone.wait(), 2)

    story(talk, tell)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        CHUNKED,
        CHUNKED + b"5\r\nhel",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi",
        b"\x00\x01 what\r\n\r\n",
    ],
)
def test_a_break_is_a_lost_peer_wherever_it_comes(sent: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(sent)

    async def tell(pool: Pool, origin: Origin) -> None:
        with pytest.raises(PeerLost):
            async with pool.lend(origin) as connection:
                await connection.ask(ASK)
                await connection.read_all(100)

    story(talk, tell)


def test_what_was_lent_when_its_pod_was_forgotten_is_not_kept() -> None:
    """It may be in the middle of a stream then; afterwards nobody would ever ask for it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(OK)
        await reader.read()

    async def tell(pool: Pool, origin: Origin) -> None:
        async with pool.lend(origin) as connection:
            await connection.ask(ASK)
            pool.forget(origin)
            assert await connection.read_all(10) == b"hi"
        assert repr(pool) == "Pool(0 idle, 0 lent)"

    story(talk, tell)


def test_nobody_listens_and_nobody_answers() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def tell(pool: Pool, origin: Origin) -> None:
        with pytest.raises(PeerLost, match="did not answer"):
            await fetch(pool, origin, "/", seconds=0.2)
        with pytest.raises(PeerLost, match="cannot connect"):
            await fetch(pool, Origin("127.0.0.1", 9), "/", seconds=1)

    story(talk, tell)


def test_what_is_not_read_holds_the_sender() -> None:
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 400000000\r\n\r\n")
        for _ in range(400):
            writer.write(b"x" * 1_000_000)
            await writer.drain()
            sent += 1

    async def tell(pool: Pool, origin: Origin) -> None:
        async with pool.lend(origin) as connection:
            await connection.ask(ASK)
            await asyncio.sleep(0.3)
            held = sent
            assert held < 50
            read = 0
            while read < 100_000_000:
                read += len(await connection.read())
            assert sent > held

    story(talk, tell)


def test_a_sink_may_hold_stop_and_fail() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await asked(reader)
            writer.write(CHUNKED)
            for number in range(5):
                writer.write(b"1\r\n%d\r\n" % number)
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.write(b"0\r\n\r\n")

    async def pouring(pool: Pool, origin: Origin, say: Callable[[Connection, bytes], Flow]) -> None:
        async with pool.lend(origin) as connection:
            await connection.ask(ASK)
            await connection.pour(lambda data: say(connection, data))

    async def tell(pool: Pool, origin: Origin) -> None:
        got: list[bytes] = []

        def hold(connection: Connection, data: bytes) -> Flow:
            got.append(data)
            asyncio.get_running_loop().call_later(0.05, connection.go_on)
            return HOLD

        await pouring(pool, origin, hold)
        assert b"".join(got) == b"01234" and len(got) < 5

        def stop(connection: Connection, data: bytes) -> Flow:
            return STOP if data >= b"2" else GO

        await pouring(pool, origin, stop)

        def fail(connection: Connection, data: bytes) -> Flow:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await pouring(pool, origin, fail)

    story(talk, tell)


def test_addresses() -> None:
    assert origin_of("http://10.0.0.1:8000") == Origin("10.0.0.1", 8000)
    assert origin_of("https://[fd00::1]") == Origin("fd00::1", 443, True)
    for wrong in ("http://[10.0.0.1:8000]:8000", "http://a:99999", "http://a:b", "a:80"):
        with pytest.raises(InvalidField, match="is no http://host:port"):
            origin_of(wrong)


def test_a_name_that_can_be_none_is_out_of_reach() -> None:
    async def reach() -> None:
        async with Pool().lend(Origin("a..b", 80)):
            pass

    with pytest.raises(Unreached):
        asyncio.run(reach())
