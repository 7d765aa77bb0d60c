"""The manual clock: nothing wakes early, everything wakes in order, tasks and threads alike."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from baton.core.clock import Clock
from baton.testing import ManualClock


def test_a_sleeper_wakes_when_its_time_has_come_and_not_before() -> None:
    async def story() -> None:
        clock = ManualClock(start=0.0)
        sleeper = asyncio.create_task(clock.sleep(10))
        await clock.run_for(9.9)
        assert not sleeper.done()
        assert clock.waiting == 1
        await clock.run_for(0.1)
        assert sleeper.done()
        assert clock.waiting == 0

    asyncio.run(story())


def test_every_beat_of_a_loop_comes_at_its_own_moment() -> None:
    async def story() -> None:
        clock = ManualClock(start=0.0)
        beats: list[float] = []

        async def heart(every: Clock) -> None:
            while True:
                await every.sleep(0.1)
                beats.append(every.now())

        task = asyncio.create_task(heart(clock))
        await clock.run_for(1.05)
        assert beats == pytest.approx([0.1 * beat for beat in range(1, 11)])
        assert clock.now() == pytest.approx(1.05)
        task.cancel()

    asyncio.run(story())


def test_sleepers_wake_in_the_order_of_their_ends() -> None:
    async def story() -> None:
        clock = ManualClock()
        woken: list[str] = []

        async def sleep(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append(name)

        async with asyncio.TaskGroup() as group:
            for name, seconds in [("late", 3.0), ("first", 1.0), ("second", 1.0), ("none", 0.0)]:
                group.create_task(sleep(name, seconds))
            await clock.run_for(5)
        assert woken == ["none", "first", "second", "late"]

    asyncio.run(story())


def test_a_cancelled_sleeper_is_forgotten() -> None:
    async def story() -> None:
        clock = ManualClock()
        sleeper = asyncio.create_task(clock.sleep(1))
        await clock.run_for(0)
        sleeper.cancel()
        await clock.run_for(2)
        assert clock.waiting == 0
        assert sleeper.cancelled()

    asyncio.run(story())


def test_a_sleeper_cancelled_between_its_time_and_its_turn_is_not_woken() -> None:
    async def story() -> None:
        clock = ManualClock()
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        sleeper = asyncio.create_task(clock.sleep(1))
        await clock.run_for(0)
        clock.advance(1)
        sleeper.cancel()
        await clock.run_for(0)
        assert sleeper.cancelled()
        assert complaints == []

    asyncio.run(story())


def test_timeouts_of_the_caller_leave_nothing_behind() -> None:
    async def story() -> None:
        clock = ManualClock()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await clock.sleep(1000)
        clock.advance(2000)
        await asyncio.sleep(0)

    asyncio.run(story())


def test_a_thread_wakes_too() -> None:
    clock = ManualClock()
    thread = threading.Thread(target=clock.pause, args=(5,), daemon=True)
    thread.start()
    while clock.waiting == 0:
        time.sleep(0.001)
    clock.advance(4.9)
    thread.join(0.02)
    assert thread.is_alive()
    clock.advance(0.1)
    thread.join(5)
    assert not thread.is_alive()


def test_time_never_goes_back() -> None:
    with pytest.raises(AssertionError, match="never goes back"):
        ManualClock().advance(-1)
