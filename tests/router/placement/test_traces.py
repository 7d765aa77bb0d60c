"""The policies on a small simulated fleet: seconds of virtual time, the same figures at every run.

A slice of what `loadtest/simulate.py` shows on six traces (loadtest/results/placement.md).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from loadtest.simulate import LEAST_SHARE, RIVALS, verdict
from loadtest.simulator import FleetShape, Summary, simulate
from loadtest.simulator.traces import Trace, make

SHAPE = FleetShape(prefill=3, decode=5, routers=2)


@cache
def trace() -> Trace:
    return make("chat-bursty", SHAPE.pods, 8.0, seed=2)


@cache
def run(policy: str, *, slow: int = 0) -> Summary:
    shape = FleetShape(prefill=3, decode=5, routers=2, slow=slow)
    return simulate(trace(), policy, shape, seed=2)


@pytest.mark.parametrize("policy", ["cost", *RIVALS])
def test_every_request_is_answered(policy: str) -> None:
    done = run(policy)
    assert done.requests == trace().requests
    assert 0 < done.cached_tokens <= trace().repeated_tokens


def test_cost_finds_what_an_oracle_finds_and_is_sooner_than_the_others() -> None:
    rows = {name: run(name) for name in ("cost", *RIVALS)}
    assert verdict(rows) == []
    assert rows["cost"].found_share >= LEAST_SHARE


def test_predictions_are_close() -> None:
    done = run("cost")
    assert done.error_p50_s < 0.5 * done.ttft_p50_s


def test_the_same_seed_gives_the_same_figures() -> None:
    again = simulate(make("chat-bursty", SHAPE.pods, 8.0, seed=2), "cost", SHAPE, seed=2)
    assert (again.cached_tokens, again.ttft_p99_s) == (run("cost").cached_tokens, run("cost").ttft_p99_s)


def test_a_slow_pod_costs_cost_the_least() -> None:
    """One prefill or decode pod takes three times as long."""
    later = {name: run(name, slow=1).ttft_p99_s for name in ("cost", "least-loaded")}
    assert later["cost"] < later["least-loaded"]


def test_a_pod_that_takes_longer_than_it_says_is_found_out() -> None:
    """One of three prefill pods takes five times as long as its lease says."""
    lying = replace(SHAPE, lying=5.0)
    found_out = simulate(trace(), "cost", lying, seed=2)
    believed = simulate(trace(), "cost", replace(lying, watched=False), seed=2)
    assert found_out.ttft_p99_s < 0.75 * believed.ttft_p99_s
    honest = simulate(trace(), "cost", replace(SHAPE, watched=False), seed=2)
    assert run("cost").ttft_p99_s == honest.ttft_p99_s  # nobody is taken for slow who is not
