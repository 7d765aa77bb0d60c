"""The page of a router with keys, in a real Chromium: it asks for one, and keeps it for its tab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.router.stage import Router, Stage
from tests.spawned import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

USER, OPERATOR = "sk-alice-0123", "sk-ops-0123456"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    stage = Stage()
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"alice:{USER}\nops:{OPERATOR}::::operator\n")
    router = Router(stage.redis.url, "--keys.file", str(keys))
    worker = stage.worker("decode-7")
    eventually(router.ready, 10)
    yield router
    stage.leave(worker)
    router.close()
    stage.close()


def test_an_operators_key_opens_the_feed_and_is_kept_for_the_tab(guarded: Router, page: Page) -> None:
    page.goto(f"{guarded.url}/ui/")
    expect(page.locator("#link")).to_have_text("an operator's key is needed")
    page.get_by_label("API key").fill(OPERATOR)
    page.get_by_label("API key").press("Tab")
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#decode .pod .name")).to_have_text("decode-7")
    page.reload()
    expect(page.locator("#link")).to_have_text("live")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_a_users_key_chats_and_sees_nobody_else(guarded: Router, page: Page) -> None:
    page.goto(f"{guarded.url}/ui/")
    page.get_by_label("API key").fill(USER)
    page.get_by_label("API key").press("Tab")
    expect(page.locator("#link")).to_have_text("this key is no operator's")
    page.fill("#longest", "4")
    page.fill("#message", "hello")
    page.press("#message", "Enter")
    page.wait_for_selector(".said .path")
    assert page.locator(".said .text").last.inner_text().strip()
    expect(page.locator(".pod")).to_have_count(0)
