"""What two routers tell each other of their loads, through a real Redis."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from tests.state.simulated import HastyClock, eventually, link_to, linked

from baton.state import InFlight, Link, LoadBoard, StateSettings
from baton.state.loads import FORGET_S


def test_two_routers_see_each_other_s_loads_within_a_second() -> None:
    async def story() -> None:
        async with (
            linked() as (redis, link),
            link_to(redis) as other,
            LoadBoard(link, "r1") as one,
            LoadBoard(other, "r2") as two,
        ):
            first, second = one.hold("w1", 700), one.hold("w1", 300)
            two.hold("w2", 50)
            assert one.total("w1") == InFlight(2, 1000), "one's own at once"
            took = await eventually(lambda: two.total("w1") == InFlight(2, 1000))
            assert took < 1.0
            await eventually(lambda: one.others == {"w2": InFlight(1, 50)})
            assert two.mine == {"w2": InFlight(1, 50)} and one.routers == two.routers == 1
            first.release_tokens()
            await eventually(lambda: two.total("w1") == InFlight(2, 300))
            first.release()
            second.release()
            await eventually(lambda: two.total("w1") == InFlight())
            assert one.mine == {} and "w1" not in two.others

    asyncio.run(story())


def test_what_is_released_twice_counts_once() -> None:
    async def story() -> None:
        async with linked() as (_, link):
            board = LoadBoard(link, "r1")
            other = board.hold("w1", 5)
            with pytest.raises(RuntimeError), board.hold("w1", 10) as hold:
                assert board.mine["w1"] == InFlight(2, 15)
                hold.release_tokens()
                hold.release()
                hold.release_tokens()
                raise RuntimeError
            assert board.mine == {"w1": InFlight(1, 5)}
            other.release()
            assert board.mine == {}

    asyncio.run(story())


def test_a_router_that_leaves_takes_its_load_along_and_one_that_dies_loses_it() -> None:
    async def story() -> None:
        async with linked() as (_, link), LoadBoard(link, "r1", interval_s=0.1) as board:
            async with LoadBoard(link, "r2", expiry_s=60.0) as leaver:
                leaver.hold("w1", 1)
                await eventually(lambda: board.total("w1") == InFlight(1, 1))
            await eventually(lambda: board.routers == 0, 10.0)
            dying = await LoadBoard(link, "r3", interval_s=0.1, expiry_s=0.3).__aenter__()
            dying.hold("w1", 2)
            await eventually(lambda: board.total("w1") == InFlight(1, 2))
            await dying._rounds.close()
            await eventually(lambda: board.total("w1") == InFlight(), 2.0)
            assert board.routers == 0

    asyncio.run(story())


def test_a_router_that_died_long_ago_is_struck_off() -> None:
    async def story() -> None:
        clock = HastyClock()
        async with linked() as (redis, link), Link(StateSettings(url=redis.url), clock=clock) as hasty:
            await link.ask("HSET", link.keys.loads, "dead", msgspec.msgpack.encode((1, 500, {"w1": (3, 9)})))
            async with LoadBoard(hasty, "r1", interval_s=0.05) as board:
                await eventually(lambda: board.total("w1") == InFlight(3, 9))
                clock.ahead_s = FORGET_S + 1
                await eventually(lambda: board.routers == 0)
                await asyncio.sleep(0.2)
                assert set(await link.ask("HGETALL", link.keys.loads)) == {b"r1"}

    asyncio.run(story())


def test_without_redis_the_others_fade_and_one_s_own_stay() -> None:
    async def story() -> None:
        async with (
            linked() as (redis, link),
            LoadBoard(link, "r1", expiry_s=0.4) as one,
            LoadBoard(link, "r2", expiry_s=0.4) as two,
        ):
            one.hold("w1", 1)
            two.hold("w1", 2)
            await eventually(lambda: one.total("w1") == InFlight(2, 3))
            await redis.kill()
            start = time.monotonic()
            await eventually(lambda: one.total("w1") == InFlight(1, 1), 2.0)
            assert time.monotonic() - start > 0.1 and one.read_s > 0.3
            await redis.start()
            await eventually(lambda: one.total("w1") == InFlight(2, 3))

    asyncio.run(story())


def test_garbage_among_the_loads_is_passed_over() -> None:
    async def story() -> None:
        async with linked() as (_, link):
            await link.ask("HSET", link.keys.loads, b"\xff", b"garbage", "old", b"\x93\x01\x02\x03")
            async with LoadBoard(link, "r1") as one, LoadBoard(link, "r2") as two:
                two.hold("w1", 1)
                await eventually(lambda: one.total("w1") == InFlight(1, 1))
                assert one.routers == 1

    asyncio.run(story())
