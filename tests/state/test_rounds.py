"""Background rounds on a manual clock: they repeat, back off, survive mistakes, and end when told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from baton.core.errors import StateUnreachable
from baton.state.rounds import CANCEL_PAUSE_S, FAULT_PAUSE_S, Rounds
from baton.testing import ManualClock

Tell = Callable[[ManualClock, Rounds, list[float]], Awaitable[None]]


def _play(tell: Tell, step: Callable[[int], float]) -> None:
    """`step(n)` is what the nth round does; `tell` gets the times at which rounds began."""

    async def story() -> None:
        clock, began = ManualClock(0.0), list[float]()

        async def round() -> float:
            began.append(clock.now())
            return step(len(began))

        rounds = Rounds("test", round, clock)
        rounds.start()
        try:
            await tell(clock, rounds, began)
        finally:
            await rounds.close()
        await rounds.close()
        assert clock.waiting == 0

    asyncio.run(story())


def test_rounds_come_as_often_as_they_ask_for_and_sooner_when_woken() -> None:
    async def tell(clock: ManualClock, rounds: Rounds, began: list[float]) -> None:
        await clock.run_for(2.5)
        assert began == [0, 1, 2]
        rounds.wake()
        await clock.run_for(0)
        assert began == [0, 1, 2, 2.5]
        await clock.run_for(1)
        assert began == [0, 1, 2, 2.5, 3.5]

    _play(tell, lambda n: 1.0)


def test_an_unreachable_redis_is_asked_again_ever_more_seldom_and_at_least_each_second() -> None:
    def step(n: int) -> float:
        if n <= 1100:
            raise StateUnreachable("gone")
        return 1.0

    async def tell(clock: ManualClock, rounds: Rounds, began: list[float]) -> None:
        rounds.wake()
        while len(began) <= 1100:
            await clock.run_for(1000)
        pauses = [later - sooner for sooner, later in itertools.pairwise(began[:1101])]
        assert 0.9 < max(pauses) < 1.001
        assert pauses[0] <= 0.1 and pauses[1] <= 0.2
        assert 0.5 < min(pauses[10:]) < 0.6, "jitter"
        assert rounds.failures == 0

    _play(tell, step)


def test_a_mistake_of_ours_is_logged_and_the_rounds_go_on(caplog: pytest.LogCaptureFixture) -> None:
    def step(n: int) -> float:
        return 1 / (n - 1)

    async def tell(clock: ManualClock, rounds: Rounds, began: list[float]) -> None:
        await clock.run_for(FAULT_PAUSE_S)
        assert began == [0, FAULT_PAUSE_S]
        assert rounds.faults == 1

    _play(tell, step)
    assert "ZeroDivisionError" in caplog.text


def test_a_round_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    async def story() -> None:
        lost = 0

        async def stubborn() -> float:
            nonlocal lost
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    if lost:
                        raise
                    lost += 1

        rounds = Rounds("stubborn", stubborn, ManualClock())
        rounds.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(3 * CANCEL_PAUSE_S):
            await rounds.close()
        assert lost == 1 and asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(story())
