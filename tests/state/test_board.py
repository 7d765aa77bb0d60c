"""Leases from keeper to board, through a real Redis that is killed, flushed, paused and stopped."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.state.simulated import (
    HastyClock,
    Worker,
    always,
    each_at_once,
    eventually,
    lease,
    link_to,
    linked,
    stopped,
)

from baton.core.errors import InvalidField
from baton.state import LeaseBoard, LeaseKeeper, Link, Standing, StateSettings, What, WorkerLoad
from baton.state.fleet import FORGET_S
from baton.state.lease import Facts, encode

EXPIRY_S = 0.8


def test_joining_draining_and_leaving_are_seen_at_once() -> None:
    async def story() -> None:
        async with linked() as (_, link), LeaseBoard(link) as board:
            await eventually(lambda: board.health.read)
            # Half a second between scans, so anything faster came by a nudge.
            async with LeaseKeeper(link, lease()) as keeper:
                assert await eventually(lambda: "w1" in board.fleet.workers) < 0.4
                assert board.fleet.workers["w1"] == lease()
                await asyncio.sleep(0.1)
                keeper.revise(draining=True, load=WorkerLoad(running=3))
                assert await eventually(lambda: board.fleet.workers["w1"].draining) < 0.4
                assert board.fleet.workers["w1"].load.running == 3
                await asyncio.sleep(0.1)
                keeper.revise(bandwidths={"w2": 199.5})
                assert await eventually(lambda: bool(board.fleet.workers["w1"].bandwidths)) < 0.4
                assert keeper.health.standing is Standing.HELD
                await asyncio.sleep(0.1)
                left = asyncio.create_task(eventually(lambda: not board.fleet.workers, 1.0))
            assert await left < 0.4
            assert keeper.health.standing is Standing.WITHDRAWN
            assert board.fleet.expired == frozenset()
            assert await link.ask("SMEMBERS", link.keys.workers) == set()

    asyncio.run(story())


def test_load_travels_with_the_beats() -> None:
    async def story() -> None:
        async with linked() as (_, link), LeaseBoard(link, scan_s=0.05) as board, Worker(link) as worker:
            for waiting in (1, 2, 3):
                worker.keeper.revise(load=WorkerLoad(waiting=waiting))
                await eventually(
                    lambda waiting=waiting: (  # type: ignore[misc]
                        "w1" in board.fleet.workers and board.fleet.workers["w1"].load.waiting == waiting
                    ),
                    1.0,
                )

    asyncio.run(story())


def test_a_crashed_worker_expires_and_keeps_nothing() -> None:
    async def story() -> None:
        async with linked() as (_, link), LeaseBoard(link, scan_s=0.05) as board:
            worker = await Worker(link).__aenter__()
            await eventually(lambda: "w1" in board.fleet.workers)
            await worker.crash()
            assert 0.4 < await eventually(lambda: not board.fleet.workers) < EXPIRY_S + 0.8
            assert board.fleet.expired == {"w1"}
            assert await link.ask("EXISTS", link.keys.lease("w1")) == 0
            assert await link.ask("PTTL", link.keys.facts("w1")) > 0

    asyncio.run(story())


def test_who_is_long_gone_is_struck_off_the_list() -> None:
    async def story() -> None:
        clock = HastyClock()
        async with linked() as (redis, link), Link(StateSettings(url=redis.url), clock=clock) as hasty:
            worker = await Worker(link).__aenter__()
            await link.ask("SADD", link.keys.workers, "never-there")
            async with LeaseBoard(hasty, scan_s=0.05) as board:
                await eventually(lambda: "w1" in board.fleet.workers)
                await worker.crash()
                await eventually(lambda: "w1" in board.fleet.expired)
                await asyncio.sleep(0.1)
                assert await link.ask("SMEMBERS", link.keys.workers) == {b"w1", b"never-there"}
                clock.ahead_s = FORGET_S + 1
                await eventually(lambda: not board.fleet.expired)
                await asyncio.sleep(0.1)
                assert await link.ask("SMEMBERS", link.keys.workers) == set()

    asyncio.run(story())


def test_watch_tells_each_change_once() -> None:
    async def story() -> None:
        async with linked() as (_, link), LeaseBoard(link, scan_s=0.05) as board:
            told: list[tuple[What, str]] = []

            async def watch() -> None:
                async for _, changes in board.watch():
                    told.extend((one.what, one.lease.incarnation) for one in changes)

            watching = asyncio.create_task(watch())
            async with Worker(link):
                await eventually(lambda: len(told) == 1)
            await eventually(lambda: len(told) == 2)
            silent = await Worker(link, incarnation="inc-2").__aenter__()
            await eventually(lambda: len(told) == 3)
            await silent.crash()
            async with Worker(link, incarnation="inc-3"):
                await eventually(lambda: len(told) == 4)
            await eventually(lambda: len(told) == 5)
            watching.cancel()
            assert told == [
                (What.JOINED, "inc-1"),
                (What.LEFT, "inc-1"),
                (What.JOINED, "inc-2"),
                (What.RESTARTED, "inc-3"),
                (What.LEFT, "inc-3"),
            ]

    asyncio.run(story())


def test_whatever_redis_suffers_no_living_worker_is_lost() -> None:
    async def story(what: str) -> None:
        async with (
            linked() as (redis, link),
            LeaseBoard(link, scan_s=0.05) as board,
            Worker(link, "w1") as one,
            Worker(link, "w2") as other,
        ):
            await eventually(lambda: len(board.fleet.workers) == 2)
            watched = asyncio.create_task(always(lambda: len(board.fleet.workers) == 2, 2.6))
            match what:
                case "flush":
                    await link.ask("FLUSHALL")
                case "restart":
                    await redis.kill()
                    await eventually(lambda: one.keeper.health.standing is Standing.LAPSED)
                    assert not link.health.reachable
                    await redis.start()
                case "stop":
                    with stopped(redis):
                        await asyncio.sleep(2 * EXPIRY_S)
                        assert board.health.read_s > EXPIRY_S
                case "pause":
                    async with link_to(redis) as operator:
                        await operator.ask("CLIENT", "PAUSE", round(2 * EXPIRY_S * 1000))
                    await asyncio.sleep(2 * EXPIRY_S)
            await eventually(lambda: other.keeper.health.renewed_s < 0.2 and board.health.read_s < 0.2)
            await watched
            for worker in (one, other):
                assert worker.keeper.health.standing is Standing.HELD
            # And whoever starts now finds everybody.
            async with LeaseBoard(link) as late:
                await eventually(lambda: len(late.fleet.workers) == 2, 1.0)
            assert one.keeper.health.republished == (what in ("flush", "restart"))

    each_at_once(story, ["flush", "restart", "stop", "pause"])


def test_a_redis_that_takes_no_writes_ends_no_lease() -> None:
    """Full, or a replica by now: leases cannot be renewed there, and who holds them is well."""

    async def story() -> None:
        async with linked() as (_, link), LeaseBoard(link, scan_s=0.05) as board, Worker(link) as worker:
            await eventually(lambda: "w1" in board.fleet.workers)
            await link.ask("CONFIG", "SET", "maxmemory", "1")
            await eventually(lambda: worker.keeper.health.standing is Standing.LAPSED)
            await always(lambda: "w1" in board.fleet.workers, 1.5 * EXPIRY_S)
            await link.ask("CONFIG", "SET", "maxmemory", "0")
            await eventually(lambda: worker.keeper.health.standing is Standing.HELD)
            await always(lambda: "w1" in board.fleet.workers, EXPIRY_S)
            await worker.crash()
            await eventually(lambda: not board.fleet.workers)

    asyncio.run(story())


def test_who_dies_while_redis_is_away_is_found_out_afterwards() -> None:
    async def story() -> None:
        async with linked() as (redis, link), LeaseBoard(link, scan_s=0.05) as board:
            worker = await Worker(link).__aenter__()
            await eventually(lambda: "w1" in board.fleet.workers)
            await redis.kill()
            await worker.crash()
            await always(lambda: "w1" in board.fleet.workers, 1.3 * EXPIRY_S)
            await redis.start()
            await eventually(lambda: board.fleet.expired == {"w1"})

    asyncio.run(story())


def test_a_lease_of_another_release_is_reported_and_harms_nobody() -> None:
    async def story() -> None:
        async with linked() as (_, link), LeaseBoard(link, scan_s=0.05) as board, Worker(link):
            await link.ask("SADD", link.keys.workers, "alien", b"\xff\xfe")
            await link.ask("SET", link.keys.lease("alien"), b"\xc1")
            await eventually(lambda: board.health.unreadable == {"alien"})
            await eventually(lambda: set(board.fleet.workers) == {"w1"})
            await link.ask("DEL", link.keys.lease("alien"))
            await eventually(lambda: board.health.unreadable == frozenset())

    asyncio.run(story())


def test_facts_are_read_once_and_not_with_each_beat() -> None:
    async def story() -> None:
        async with linked() as (_, link), LeaseBoard(link, scan_s=0.05) as board, Worker(link):
            await eventually(lambda: "w1" in board.fleet.workers and board.fleet.workers["w1"].events == 1)
            # If the board read them again, it would see what stands there now.
            await link.ask("SET", link.keys.facts("w1"), encode(Facts(1, lease(zone="elsewhere"))))
            version = board.fleet.version
            await asyncio.sleep(0.3)
            assert board.fleet.workers["w1"].zone == "" and board.fleet.version == version

    asyncio.run(story())


def test_facts_that_a_replica_never_got_are_published_again() -> None:
    """It took over with those of before: they are there, and would stay until the next change."""

    async def story() -> None:
        async with linked() as (_, link), Worker(link) as worker:
            await eventually(lambda: worker.keeper.health.renewals > 1)
            before = await link.ask("GET", link.keys.facts("w1"))
            worker.keeper.revise(bandwidths={"w2": 241.5})
            while await link.ask("GET", link.keys.facts("w1")) == before:
                await asyncio.sleep(0.01)
            renewals = worker.keeper.health.renewals
            await eventually(lambda: worker.keeper.health.renewals > renewals + 1)
            await link.ask("SET", link.keys.facts("w1"), before)
            async with LeaseBoard(link, scan_s=0.05) as board:
                await eventually(
                    lambda: (
                        "w1" in board.fleet.workers and board.fleet.workers["w1"].bandwidths == {"w2": 241.5}
                    )
                )
            assert worker.keeper.health.republished == 1

    asyncio.run(story())


def test_a_keeper_outlives_a_redis_that_was_never_there() -> None:
    async def story() -> None:
        async with linked() as (redis, link):
            await redis.kill()
            async with LeaseBoard(link, scan_s=0.05) as board, Worker(link) as worker:
                await asyncio.sleep(0.5)
                assert worker.keeper.health.standing is Standing.PENDING
                assert not board.health.read
                await redis.start()
                await eventually(lambda: "w1" in board.fleet.workers, 2.0)
                await redis.kill()
                start = time.monotonic()
            assert time.monotonic() - start < 3.5, "leaving waits for a deadline, not for Redis"

    asyncio.run(story())


def test_a_run_of_a_worker_keeps_its_name() -> None:
    async def story() -> None:
        async with linked() as (_, link):
            keeper = LeaseKeeper(link, lease())
            for field in ("id", "incarnation"):
                with pytest.raises(InvalidField, match="cannot change"):
                    keeper.revise(**{field: "other"})
            await keeper.withdraw()
            await keeper.withdraw()

    asyncio.run(story())
