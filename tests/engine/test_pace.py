"""Measured speed: what the device took, whatever the host did meanwhile, and deaf to one slow step."""

from __future__ import annotations

import random

import pytest
from tests.engine.test_scheduler import engine, request, run

from baton.engine.pace import KEPT_STEPS, Pace, weighted_median


class Device:
    """Steps of a device that does one after the other, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self._free_at = 0.0
        self._ends: list[tuple[float, int]] = []
        self.pace = Pace(lambda: self.now)

    def launch(self, seconds: float, tokens: int = 0) -> None:
        self.pace.launched()
        self._free_at = max(self._free_at, self.now) + seconds
        self._ends.append((self._free_at, tokens))

    def absorb(self) -> None:
        ends_at, tokens = self._ends.pop(0)
        self.now = max(self.now, ends_at)
        self.pace.absorbed(tokens)


def test_before_the_first_step_there_is_no_figure() -> None:
    assert (Pace().prefill_tokens_per_s, Pace().decode_step_ms) == (0.0, 0.0)


def test_a_step_that_waits_behind_another_is_not_charged_for_it() -> None:
    device = Device()
    device.launch(0.010)
    for _ in range(10):  # one step ahead, as with overlap
        device.launch(0.010)
        device.absorb()
    assert device.pace.decode_step_ms == pytest.approx(10.0)


def test_idle_time_is_nobody_s() -> None:
    device = Device()
    for _ in range(5):
        device.launch(0.1, 2000)
        device.absorb()
        device.now += 60.0
    assert device.pace.prefill_tokens_per_s == pytest.approx(20_000)


def test_one_slow_step_moves_nothing_and_a_new_speed_is_believed_soon() -> None:
    device = Device()
    for _ in range(20):
        device.launch(0.1, 2000)
        device.absorb()
        device.launch(0.005)
        device.absorb()
    device.launch(30.0, 2000)
    device.absorb()
    device.launch(3.0)
    device.absorb()
    assert device.pace.prefill_tokens_per_s == pytest.approx(20_000)
    assert device.pace.decode_step_ms == pytest.approx(5.0)
    for _ in range(KEPT_STEPS // 2 + 1):
        device.launch(0.2, 2000)
        device.absorb()
    assert device.pace.prefill_tokens_per_s == pytest.approx(10_000)


def test_small_chunks_say_little() -> None:
    device = Device()
    for _ in range(10):
        device.launch(0.1, 2000)
        device.absorb()
        device.launch(0.02, 20)  # what a step costs at least, mostly
        device.absorb()
    assert device.pace.prefill_tokens_per_s == pytest.approx(20_000)


def test_the_weighted_median_is_that_of_the_values_repeated() -> None:
    chance = random.Random(4)
    for _ in range(200):
        values = [(chance.random(), chance.randrange(1, 9)) for _ in range(chance.randrange(1, 9))]
        repeated = sorted(value for value, weight in values for _ in range(weight))
        assert weighted_median(values) == repeated[(len(repeated) - 1) // 2]


def test_an_engine_tells_what_is_queued_and_how_fast_it_is() -> None:
    """Rows for one sequence: the second prompt waits while the first is computed and decoded."""
    served = engine(pages=64, max_running=1, prefill_budget=8)
    served.submit(request("a", list(range(20)), 4))
    served.submit(request("b", list(range(50, 80)), 4))
    assert served.load().prefill_tokens_queued == 50
    served.step()
    assert served.load().prefill_tokens_queued == 42
    while served.load().prefilling or served.load().running < 1:
        served.step()
    assert served.load().prefill_tokens_queued == 30
    run(served)
    load = served.load()
    assert load.prefill_tokens_queued == load.waiting == load.prefilling == 0
    assert load.prefill_tokens_per_s > 0 and load.decode_step_ms > 0
