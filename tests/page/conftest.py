"""A real Chromium, driven by playwright. Where there is none, these tests say so and are skipped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """No longer than a module: while playwright runs, nobody else can run an event loop on this thread."""
    sync_api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(PROGRAMS)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page. What goes wrong inside it fails the test."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(20_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: _note(wrong, message.type, message.text))
    yield page
    page.close()
    assert wrong == []


def _note(wrong: list[str], kind: str, text: str) -> None:
    """Chromium reports every refusal of the server as an error, also those that the page shows."""
    if kind == "error" and not re.search("the server responded with a status of 40[013]", text):
        wrong.append(text)
