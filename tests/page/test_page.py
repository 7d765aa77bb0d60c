"""The page in a real Chromium, over a whole Baton: a chat, its hand-over, pods that die and come back."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
from tests.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

LONG = "Please tell me what a prefill pod does, what a decode pod does, and what they hand over. " * 3


@pytest.fixture
def open_page(page: Page, running: Running) -> Page:
    page.goto(f"{running.url}/ui")
    page.wait_for_selector("#link[data-state=live]")
    expect(page.locator(".pod[data-state=ready]")).to_have_count(3, timeout=20_000)
    return page


def test_the_pods_are_shown_in_their_lanes(open_page: Page) -> None:
    assert open_page.locator("#prefill .pod .name").all_inner_texts() == ["prefill-0"]
    assert open_page.locator("#decode .pod .name").all_inner_texts() == ["decode-0", "decode-1"]
    assert open_page.locator("#wires path").count() == 2
    assert "tiny" in open_page.inner_text("#model")


def test_a_chat_with_its_hand_over_and_its_placement(open_page: Page) -> None:
    handed = open_page.locator("#handoff-rows tr")
    before = handed.count()
    open_page.fill("#message", f"{os.getpid()} {LONG}")  # nobody has it cached
    open_page.press("#message", "Enter")
    open_page.wait_for_selector(".said .path")
    answer = open_page.locator(".said").last
    assert len(answer.locator(".text").inner_text()) > 10
    path = answer.locator(".path").inner_text()
    assert "prefill-0 → decode-" in path and "prompt tokens from cache" in path and "tokens/s" in path
    expect(handed).to_have_count(before + 1)
    cells = handed.first.locator("td").all_inner_texts()
    assert cells[1] == "prefill-0" and cells[2] in path and int(cells[3]) > 32 and float(cells[5]) > 0
    placed = open_page.locator("#placement-rows tr").first
    assert placed.locator("td").nth(3).inner_text() == "prefill-0"
    expected, seen = placed.locator(".first").inner_text().split(" / ")
    assert expected != "–" and seen != "–"
    placed.locator("summary").click()
    assert "computing" in placed.locator("details ol").inner_text()


def test_what_was_said_before_is_found_in_the_cache(open_page: Page) -> None:
    for _ in range(2):
        open_page.fill("#message", f"again {os.getpid()} {LONG}")
        open_page.click("#send")
        open_page.wait_for_selector(".said:last-child .path")
    told = open_page.locator(".said .path").last.inner_text()
    cached = int(told.rpartition(" of ")[0].rpartition("· ")[2])
    assert cached > 0, told


def test_figures_move_and_are_said_in_words(open_page: Page) -> None:
    open_page.fill("#message", "What is a page?")
    open_page.click("#send")
    open_page.wait_for_selector(".said .path")
    chart = open_page.locator("#charts .chart").first
    expect(chart).to_have_attribute("aria-label", re.compile("median"))
    assert open_page.locator("#charts polyline.half").first.get_attribute("points")
    assert float(open_page.inner_text("#total-requests")) >= 0


def test_a_mistake_is_told_where_the_answer_would_be(open_page: Page) -> None:
    open_page.fill("#longest", "8000")
    open_page.fill("#message", "hello")
    with open_page.expect_response("**/v1/chat/completions") as answered:
        open_page.press("#message", "Enter")
    assert answered.value.status == 400
    open_page.wait_for_selector(".said.failed")
    assert open_page.locator(".said.failed .text").inner_text()


def test_a_thought_stands_apart_from_the_answer(open_page: Page) -> None:
    thoughts = [{"reasoning_content": "hm, "}, {"reasoning_content": "so"}]
    deltas = [{"role": "assistant", "content": ""}, *thoughts, {"content": "Yes."}]
    events = [json.dumps({"choices": [{"delta": one}]}) for one in deltas]
    told = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
    open_page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=told, content_type="text/event-stream")
    )
    open_page.fill("#message", "why?")
    open_page.press("#message", "Enter")
    expect(open_page.locator(".said .thought")).to_have_text("hm, so")
    expect(open_page.locator(".said:last-child .text")).to_have_text("Yes.")


def test_it_works_by_keyboard_and_for_screen_readers(open_page: Page) -> None:
    open_page.keyboard.press("Tab")
    assert open_page.evaluate("document.activeElement.className") == "skip"
    order = []
    for _ in range(12):
        open_page.keyboard.press("Tab")
        order.append(open_page.evaluate("document.activeElement.id"))
    assert [one for one in order if one in ("message", "temperature", "longest", "reset", "send")] == [
        "message",
        "temperature",
        "longest",
        "reset",
        "send",
    ]
    nameless = """[...document.querySelectorAll('section, input, textarea, button, svg[role=img], .bar, ul')]
        .filter((one) => !one.hidden && !one.closest('[hidden]'))
        .filter((one) => !(one.getAttribute('aria-label') || one.getAttribute('aria-labelledby')
            || one.labels?.length || one.textContent.trim()))
        .map((one) => one.outerHTML.slice(0, 80))"""
    assert open_page.evaluate(nameless) == []
    for region in ("#link", "#fleet-news", "#talk"):
        assert open_page.get_attribute(region, "aria-live") == "polite"


CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).slice(0, 3)
      .map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (!color.endsWith(', 0)') && color !== 'transparent') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const weak = [];
  const texts = 'h1, h2, h3, p, dt, dd, th, td, label, button:enabled, span, figcaption';
  for (const one of document.querySelectorAll(texts)) {
    if (!one.textContent.trim() || !one.getClientRects().length || one.closest('.unseen, .skip')) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${one.tagName} ${one.className} ${one.textContent.slice(0, 20)} ${ratio}`);
  }
  return weak;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(open_page: Page, scheme: str) -> None:
    open_page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    assert open_page.evaluate(CONTRAST) == []


def test_a_narrow_window_needs_no_sideways_scrolling(open_page: Page) -> None:
    open_page.set_viewport_size({"width": 390, "height": 800})
    assert open_page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_is_loaded_from_elsewhere(browser: Browser, running: Running) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{running.url}/ui/")
    page.wait_for_selector(".pod")
    page.close()
    assert all(url.startswith((running.url, "data:")) for url in asked), asked
    assert {url.removeprefix(running.url) for url in asked if url.startswith("http")} == {
        "/ui/",
        "/ui/page.css",
        "/ui/page.js",
        "/ui/feed",
    }


def test_a_pod_that_dies_and_returns(open_page: Page, running: Running) -> None:
    before = running.workers()["decode-1"]
    with running.unattended():  # nobody brings it back before the page has seen it go
        os.kill(running.pid("decode-1"), signal.SIGKILL)
        open_page.wait_for_selector("#pod-decode-1[data-state=lost]")
        assert "decode-1 has gone" in open_page.inner_text("#fleet-news")
        open_page.fill("#message", "What is a decode pod?")
        open_page.press("#message", "Enter")
        open_page.wait_for_selector(".said .path")
        assert "decode-" in open_page.locator(".said .path").last.inner_text(), "the others go on"
    open_page.wait_for_selector("#pod-decode-1[data-state=ready]", timeout=60_000)
    running.until(lambda: running.workers().get("decode-1") not in (None, before))
