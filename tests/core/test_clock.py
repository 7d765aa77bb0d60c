"""The system's clock keeps the contract that the manual one imitates."""

from __future__ import annotations

import asyncio

from baton.core.clock import Clock, SystemClock


def test_sleep_lets_others_run_and_lasts_long_enough() -> None:
    async def story() -> None:
        clock: Clock = SystemClock()
        ran = asyncio.Event()
        other = asyncio.create_task(_set(ran))
        before = clock.now()
        await clock.sleep(0.02)
        assert clock.now() - before >= 0.019
        assert ran.is_set()
        await other

    asyncio.run(story())


def test_sleeping_no_time_still_yields() -> None:
    async def story() -> None:
        ran = asyncio.Event()
        other = asyncio.create_task(_set(ran))
        await SystemClock().sleep(-1)
        assert ran.is_set()
        await other

    asyncio.run(story())


def test_pause_blocks_and_takes_less_than_nothing_for_nothing() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.pause(0.01)
    clock.pause(-1)
    assert 0.009 <= clock.now() - before < 5


async def _set(event: asyncio.Event) -> None:
    event.set()
