"""One router, one Redis for all tests that need nothing particular of them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.router.stage import Router, Stage

from baton.testing.simulated import SimulatedWorker


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.fixture(scope="session")
def router(stage: Stage) -> Iterator[Router]:
    made = Router(stage.redis.url, "--limits.deadline_s", "30", "--retry.wait_s", "3")
    yield made
    made.close()


@pytest.fixture
def workers(stage: Stage, router: Router) -> Iterator[list[SimulatedWorker]]:
    """Two, which take no time."""
    with stage.playing(router, "w1", "w2") as playing:
        yield playing


@pytest.fixture
def http(router: Router) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=router.url, timeout=30) as client:
        yield client
