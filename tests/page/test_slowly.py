"""The page in a real Chromium while an answer takes its time: simulated workers are as slow as told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.router.stage import Router, Stage
from tests.spawned import eventually

from baton.testing.simulated import SimulatedWorker, Timing

if TYPE_CHECKING:
    from playwright.sync_api import Page

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.fixture(scope="module")
def router(stage: Stage) -> Iterator[Router]:
    made = Router(stage.redis.url)
    yield made
    made.close()


@pytest.fixture
def worker(stage: Stage, router: Router) -> Iterator[SimulatedWorker]:
    """Its longest answer would take minutes."""
    with stage.playing(router, "slow", timing=Timing(step_s=0.1)) as (worker,):
        yield worker


def test_an_answer_can_be_stopped(page: Page, router: Router, worker: SimulatedWorker) -> None:
    page.goto(f"{router.url}/ui")
    expect(page.locator(".pod[data-state=ready]")).to_have_count(1)
    page.fill("#longest", "2000")
    page.fill("#message", "Tell me a story.")
    page.press("#message", "Enter")
    said = page.locator(".said").last.locator(".text")
    expect(said).not_to_be_empty()
    expect(page.locator("#send")).to_be_disabled()
    page.click("#stop")
    expect(page.locator("#send")).to_be_enabled()
    eventually(lambda: worker.counts["aborted"] == 1)
    assert said.inner_text(), "what was said stays"
    page.click("#reset")
    assert page.locator(".said").count() == 0
