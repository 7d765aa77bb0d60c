"""Prefix events from writer to index, through a real Redis that is killed, flushed, paused and stopped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.state.simulated import Worker, each_at_once, eventually, identities, link_to, linked, stopped

from baton.state import EmbeddedRedis, EventReader, Link, PrefixIndex
from baton.state.events import FIELD, write_entries


class Router:
    """An index and what keeps it."""

    def __init__(self, link: Link) -> None:
        self.index = PrefixIndex()
        self.reader = EventReader(link, self.index)

    def knows(self, *workers: Worker) -> bool:
        """The index holds exactly what the workers hold."""
        held = {id: set(mine) for id, mine in self.index._held.items()}
        return held == {worker.keeper.lease.id: set(worker.held) for worker in workers}

    def follow(self, *workers: Worker) -> None:
        self.reader.follow((one.keeper.lease.id, one.keeper.lease.incarnation) for one in workers)

    async def __aenter__(self) -> Router:
        await self.reader.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reader.__aexit__(None, None, None)


@asynccontextmanager
async def asleep(router: Router) -> AsyncIterator[None]:
    """It reads nothing meanwhile."""
    await router.__aexit__()
    yield
    await router.__aenter__()


def test_what_is_stored_is_known_within_moments() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link) as worker, Router(link) as router:
            router.follow(worker)
            chain = worker.store(identities(100))
            assert await eventually(lambda: router.knows(worker)) < 1.0
            assert router.index.lookup(chain) == {"w1": 100}
            worker.change(chain[:59:-1], [])
            await eventually(lambda: router.index.lookup(chain) == {"w1": 60})
            for _ in range(5):
                worker.store(identities(3))
                assert await eventually(lambda: router.knows(worker)) < 0.5
            assert router.reader.health.gaps == 0
            assert router.reader.health.behind == frozenset()

    asyncio.run(story())


def test_a_late_router_learns_what_it_missed() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link, kept_entries=8) as worker, Router(link) as early:
            early.follow(worker)
            for _ in range(10):
                worker.store(identities(50))
                await eventually(lambda: early.knows(worker))
            worker.change(list(worker.held)[-30:], [])
            async with Router(link) as late:
                late.follow(worker)
                await eventually(lambda: late.knows(worker) and early.knows(worker))
                worker.store(identities(1))
                await eventually(lambda: late.knows(worker) and early.knows(worker))
            assert worker.writer.health.snapshots > 1
            assert early.reader.health.resyncs == 1, "who reads along needs one snapshot only"

    asyncio.run(story())


def test_a_stream_and_its_snapshot_stay_small() -> None:
    async def story() -> None:
        async with linked("--stream-node-max-entries", "1") as (_, link):
            async with Worker(link, kept_entries=8) as worker:
                for _ in range(25):
                    before = worker.store(identities(200))
                    worker.change(before, [])
                    await eventually(lambda: worker.writer.health.waiting == 0)
                events = link.keys.events("w1", "inc-1")
                assert await link.ask("XLEN", events) <= 9
                for key in (events, link.keys.pages("w1", "inc-1")):
                    assert 0 < await link.ask("PTTL", key) <= 60_000
            assert await link.ask("KEYS", "*:events:*") == await link.ask("KEYS", "*:pages:*") == []

    asyncio.run(story())


def test_a_worker_killed_right_after_its_first_entry_leaves_nothing_for_ever() -> None:
    async def story() -> None:
        async with linked() as (_, link):
            worker = await Worker(link, check_s=60.0).__aenter__()
            await eventually(lambda: worker.writer.health.sent > 0)
            await worker.crash()
            for key in (link.keys.events("w1", "inc-1"), link.keys.pages("w1", "inc-1")):
                assert 0 < await link.ask("PTTL", key) <= 60_000

    asyncio.run(story())


def test_a_missing_entry_is_noticed_and_made_good_by_the_next_snapshot() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link, snapshot_s=0.8) as worker, Router(link) as router:
            for _ in range(3):
                worker.store(identities(10))
                await eventually(lambda: worker.writer.health.waiting == 0)
            assert await link.ask("XDEL", link.keys.events("w1", "inc-1"), "3-0") == 1
            router.follow(worker)
            await eventually(lambda: router.reader.health.gaps > 0)
            worker.store(identities(10))
            await eventually(lambda: router.knows(worker))
            assert router.reader.health.behind == frozenset()

    asyncio.run(story())


def test_what_was_known_is_not_given_up_for_an_older_snapshot() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link, snapshot_s=0.9) as worker, Router(link) as router:
            router.follow(worker)
            await eventually(lambda: worker.writer.health.sent == 1)
            known = worker.store(identities(30))
            await eventually(lambda: router.knows(worker))
            async with asleep(router):
                for _ in range(2):
                    worker.store(identities(10))
                    await eventually(lambda: worker.writer.health.waiting == 0)
                assert await link.ask("XDEL", link.keys.events("w1", "inc-1"), "3-0") == 1
            await eventually(lambda: router.reader.health.behind == {"w1"})
            # The only snapshot is that of the start, when the worker held nothing.
            await asyncio.sleep(0.3)
            assert router.index.lookup(known) == {"w1": 30}
            assert router.reader.health.behind == {"w1"}
            await eventually(lambda: router.knows(worker))

    asyncio.run(story())


def test_a_reader_that_slept_past_the_stream_starts_again() -> None:
    async def story() -> None:
        async with (
            linked("--stream-node-max-entries", "1") as (_, link),
            Worker(link, kept_entries=4) as worker,
            Router(link) as router,
        ):
            router.follow(worker)
            worker.store(identities(10))
            await eventually(lambda: router.knows(worker))
            async with asleep(router):
                for _ in range(12):
                    worker.store(identities(10))
                    await eventually(lambda: worker.writer.health.waiting == 0)
            await eventually(lambda: router.knows(worker))
            assert router.reader.health.gaps == 1

    asyncio.run(story())


def test_another_incarnation_holds_nothing_of_the_last() -> None:
    async def story() -> None:
        async with linked() as (_, link), Router(link) as router:
            old = await Worker(link).__aenter__()
            router.follow(old)
            old.store(identities(20))
            await eventually(lambda: router.knows(old))
            await old.crash()
            async with Worker(link, incarnation="inc-2") as new:
                router.follow(new)
                assert "w1" not in router.index.pages
                new.store(identities(5))
                await eventually(lambda: router.knows(new))
                # What the last run still writes, from wherever it hangs, reaches nobody.
                [(data, _)] = write_entries([(b"", b"".join(identities(3)))])
                await link.ask("XADD", link.keys.events("w1", "inc-1"), "99-0", FIELD, data)
                new.store(identities(5))
                await eventually(lambda: router.knows(new))
            router.follow()
            assert router.index.pages == {} and router.reader.progress == {}

    asyncio.run(story())


def test_an_entry_whose_answer_was_lost_is_not_written_twice() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link) as worker, Router(link) as router:
            router.follow(worker)
            await eventually(lambda: worker.writer.health.sent == 1)
            pages = identities(4)
            [(data, _)] = write_entries([(b"", b"".join(pages))])
            await link.ask("XADD", link.keys.events("w1", "inc-1"), "2-0", FIELD, data)
            worker.store(pages)
            await eventually(lambda: worker.writer.health.waiting == 0)
            worker.store(identities(2))
            await eventually(lambda: router.knows(worker) and worker.writer.health.waiting == 0)
            assert (link.health.failures, router.reader.health.gaps) == (0, 0)

    asyncio.run(story())


def test_garbage_in_a_stream_is_made_good() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link, snapshot_s=0.5) as worker, Router(link) as router:
            router.follow(worker)
            await eventually(lambda: worker.writer.health.sent == 1 and router.knows(worker))
            await link.ask("XADD", link.keys.events("w1", "inc-1"), "2-0", FIELD, b"garbage")
            worker.store(identities(4))
            await eventually(lambda: router.reader.health.gaps > 0)
            await eventually(lambda: router.knows(worker))

    asyncio.run(story())


async def _suffer(redis: EmbeddedRedis, link: Link, what: str, meanwhile: list[Worker]) -> None:
    def work() -> None:
        for worker in meanwhile:
            worker.change(list(worker.held)[-5:], identities(7))

    match what:
        case "flush":
            work()
            await link.ask("FLUSHALL")
            work()
        case "restart":
            await redis.kill()
            work()
            await asyncio.sleep(0.5)
            work()
            await redis.start()
        case "stop":
            with stopped(redis):
                work()
                await asyncio.sleep(1.2)
                work()
        case "pause":
            async with link_to(redis) as operator:
                await operator.ask("CLIENT", "PAUSE", 1200)
            work()
            await asyncio.sleep(1.2)


def test_the_index_is_right_soon_after_redis_is_back() -> None:
    async def story(what: str) -> None:
        async with (
            linked() as (redis, link),
            Router(link) as router,
            Worker(link, "w1") as one,
            Worker(link, "w2") as other,
        ):
            router.follow(one, other)
            one.store(identities(50))
            other.store(identities(60))
            await eventually(lambda: router.knows(one, other))
            await _suffer(redis, link, what, [one, other])
            await eventually(lambda: router.knows(one, other))
            # Nothing more is written by `one`: a router that starts now still finds everything.
            other.store(identities(5))
            async with Router(link) as late:
                late.follow(one, other)
                await eventually(lambda: late.knows(one, other) and router.knows(one, other))

    each_at_once(story, ["flush", "restart", "stop", "pause"])


def test_a_redis_that_comes_back_with_an_old_file_is_set_right(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            linked("--dir", str(tmp_path)) as (redis, link),
            Worker(link) as worker,
            Router(link) as router,
        ):
            router.follow(worker)
            worker.store(identities(20))
            await eventually(lambda: router.knows(worker))
            await link.ask("SAVE")
            for _ in range(3):
                worker.change(list(worker.held)[-5:], identities(10))
                await eventually(lambda: router.knows(worker))
            await redis.kill()
            await redis.start()
            # The worker has nothing to say any more: its own check finds what Redis has forgotten.
            async with Router(link) as late:
                late.follow(worker)
                await eventually(lambda: late.knows(worker))
                assert router.knows(worker) and worker.writer.health.repairs == 1

    asyncio.run(story())


def test_a_worker_that_is_silent_after_a_flush_is_learnt_anew_by_who_missed_some() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link) as worker, Router(link) as router:
            router.follow(worker)
            worker.store(identities(30))
            await eventually(lambda: router.knows(worker))
            async with asleep(router):
                worker.store(identities(10))
                await eventually(lambda: worker.writer.health.waiting == 0)
                await link.ask("FLUSHALL")
            await eventually(lambda: router.knows(worker))

    asyncio.run(story())


def test_a_buffer_that_overflows_costs_no_correctness() -> None:
    async def story() -> None:
        async with linked() as (redis, link), Router(link) as router, Worker(link, buffer=64) as worker:
            router.follow(worker)
            kept = worker.store(identities(40))
            await eventually(lambda: router.knows(worker))
            await redis.kill()
            for _ in range(20):
                worker.change(list(worker.held)[-3:], identities(10))
                await asyncio.sleep(0)
                assert worker.writer.health.waiting <= 64
            assert worker.writer.health.dropped > 0
            assert router.index.lookup(kept) == {"w1": 40}, "what was known serves on"
            await redis.start()
            await eventually(lambda: router.knows(worker))
            assert worker.writer.health.repairs >= 1

    asyncio.run(story())


def test_without_a_snapshot_events_still_flow() -> None:
    async def story() -> None:
        async with linked() as (_, link), Worker(link) as worker, Router(link) as router:
            router.follow(worker)
            worker.store(identities(5))
            await eventually(lambda: router.knows(worker))

            async def broken() -> list[bytes]:
                raise RuntimeError("the engine does not answer")

            answers, worker.writer._take_snapshot = worker.writer._take_snapshot, broken
            await link.ask("DEL", link.keys.pages("w1", "inc-1"))
            await asyncio.sleep(0.5)
            worker.store(identities(5))
            await eventually(lambda: router.knows(worker), 1.0)
            worker.writer._take_snapshot = answers
            async with Router(link) as late:
                late.follow(worker)
                await eventually(lambda: late.knows(worker))

    asyncio.run(story())


def test_a_random_life_ends_with_the_right_index() -> None:
    """Workers store, evict, crash and come back while Redis is flushed, restarted and stopped."""

    async def story() -> None:
        chance = random.Random(7)
        async with linked() as (redis, link), Router(link) as router:
            runs = dict.fromkeys(["w1", "w2", "w3"], 1)
            workers = {id: await Worker(link, id, "inc-1", kept_entries=8).__aenter__() for id in runs}
            for step in range(60):
                id = chance.choice(list(workers))
                worker = workers[id]
                if step in (20, 40):
                    await worker.crash()
                    runs[id] += 1
                    workers[id] = await Worker(link, id, f"inc-{runs[id]}", kept_entries=8).__aenter__()
                elif step in (15, 30, 45):
                    await _suffer(redis, link, {15: "flush", 30: "restart", 45: "stop"}[step], [worker])
                else:
                    gone = chance.sample(list(worker.held), k=chance.randint(0, len(worker.held)))
                    worker.change(gone, identities(chance.randint(0, 40)))
                router.follow(*workers.values())
                await asyncio.sleep(0.02 * chance.random())
            await eventually(lambda: router.knows(*workers.values()))
            for worker in workers.values():
                await worker.__aexit__()

    asyncio.run(story())
