"""One process reads Redis for several: late listeners, lost ones, slow ones, and a feed that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from tests.state.simulated import Worker, always, eventually, identities, linked

from baton.core.clock import SystemClock
from baton.http import listen
from baton.state import FedReader, FleetMirror, IndexFeed, Link, PrefixIndex
from baton.state.feed import HEAD, SILENCE_S


class Listener:
    """An index and what keeps it."""

    def __init__(self, port: int) -> None:
        self.index = PrefixIndex()
        self.reader = FedReader(port, self.index, SystemClock())

    def knows(self, *workers: Worker) -> bool:
        held = {id: set(mine) for id, mine in self.index._held.items()}
        return held == {one.keeper.lease.id: set(one.held) for one in workers}

    async def __aenter__(self) -> Listener:
        await self.reader.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reader.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def feeding() -> AsyncIterator[tuple[socket.socket, int]]:
    """A socket that outlives feeds, and its port."""
    with listen("127.0.0.1", 0) as door:
        yield door, door.getsockname()[1]


def feed_at(link: Link, door: socket.socket) -> IndexFeed:
    return IndexFeed(link, door.dup())


def test_listeners_know_what_the_feed_reads_whenever_they_come() -> None:
    async def story() -> None:
        async with (
            linked() as (_, link),
            feeding() as (door, port),
            feed_at(link, door),
            Listener(port) as early,
        ):
            async with Worker(link) as one:
                chain = one.store(identities(300))
                await eventually(lambda: early.knows(one))
                one.change(chain[:99:-1], [])
                async with Listener(port) as late, Worker(link, "w2") as other:
                    other.store(identities(50))
                    for listener in (early, late):
                        await eventually(lambda listener=listener: listener.knows(one, other))
                        assert listener.index.lookup(chain)["w1"] == 100
                    await eventually(lambda: early.reader.progress.keys() == {"w1", "w2"})
                    await eventually(lambda: not early.reader.health.behind)
                    assert early.reader.health.gaps == 0
                await eventually(lambda: early.knows(one))
            await eventually(lambda: not early.index.pages)

    asyncio.run(story())


def test_a_router_s_mirror_follows_the_feed() -> None:
    async def story() -> None:
        async with (
            linked() as (_, link),
            feeding() as (door, port),
            feed_at(link, door),
            FleetMirror(link, "r1", port) as mirror,
            Worker(link) as worker,
        ):
            chain = worker.store(identities(200))
            await eventually(lambda: mirror.index.lookup(chain) == {"w1": 200})
            await eventually(lambda: len(mirror.fleet.workers) == 1 and mirror.health.lag == 0)
            assert mirror.health.events.read_s < SILENCE_S

    asyncio.run(story())


def test_what_was_known_stays_while_the_feed_is_away_and_is_right_when_it_is_back() -> None:
    async def story() -> None:
        async with (
            linked() as (_, link),
            feeding() as (door, port),
            Listener(port) as listener,
            Worker(link) as one,
        ):
            gone = await Worker(link, "w2").__aenter__()
            async with feed_at(link, door):
                chain, others = one.store(identities(100)), gone.store(identities(30))
                await eventually(lambda: listener.knows(one, gone))
            await gone.__aexit__(None, None, None)
            one.change(chain[:79:-1], [])
            fresh = one.store(identities(5))
            assert listener.index.lookup(chain)["w1"] == 100  # stale, and not lost
            assert listener.index.lookup(others)["w2"] == 30
            async with feed_at(link, door):
                await eventually(lambda: listener.knows(one))
                assert listener.index.lookup(chain) == {"w1": 80}
                assert listener.index.lookup(fresh) == {"w1": 5}

    asyncio.run(story())


def test_a_feed_that_has_not_read_redis_yet_takes_nothing_away() -> None:
    async def story() -> None:
        async with linked() as (redis, link), feeding() as (door, port), Listener(port) as listener:
            worker = await Worker(link).__aenter__()
            gone = await Worker(link, "w2").__aenter__()
            async with feed_at(link, door):
                chain = worker.store(identities(100))
                gone.store(identities(30))
                await eventually(lambda: listener.knows(worker, gone))
                await eventually(lambda: listener.reader.progress.keys() == {"w1", "w2"})
            await redis.kill()
            await gone.crash()
            async with feed_at(link, door) as feed:
                await eventually(lambda: len(feed._listeners) == 1)
                await always(lambda: listener.index.lookup(chain)["w1"] == 100, 0.5)
                await redis.start()
                await eventually(lambda: listener.knows(worker))
            await worker.__aexit__()

    asyncio.run(story())


def test_a_listener_that_does_not_keep_up_is_let_go_and_holds_nobody_up() -> None:
    async def story() -> None:
        async with (
            linked() as (_, link),
            feeding() as (door, port),
            Listener(port) as listener,
            IndexFeed(link, door.dup(), backlog_bytes=1 << 18) as feed,
        ):
            with socket.create_connection(("127.0.0.1", port)):  # it never reads
                await eventually(lambda: len(feed._listeners) == 2)
                feed.reset("w1", b"")
                frame = b"".join(identities(1 << 12))
                for _ in range(1000):  # more than the system's buffers take
                    feed.apply("w1", b"", frame)
                    await asyncio.sleep(0.001)  # who reads gets it meanwhile
                    if len(feed._listeners) == 1:
                        break
                assert len(feed._listeners) == 1
            await eventually(lambda: listener.index.pages == {"w1": 1 << 12})

    asyncio.run(story())


def test_a_feed_that_skips_a_message_or_falls_silent_is_left() -> None:
    async def story() -> None:
        comes = asyncio.Queue[asyncio.StreamWriter]()

        async def wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            comes.put_nowait(writer)
            await reader.read()
            writer.close()

        with listen("127.0.0.1", 0) as door:
            server = await asyncio.start_server(wrong, sock=door.dup())
            async with Listener(door.getsockname()[1]):
                for head in (HEAD.pack(1, 1), b""):
                    async with asyncio.timeout(SILENCE_S + 10):
                        writer = await comes.get()
                    writer.write(head + b"\0" if head else b"")
                async with asyncio.timeout(SILENCE_S + 10):
                    await comes.get()
            server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 1)

    asyncio.run(story())
