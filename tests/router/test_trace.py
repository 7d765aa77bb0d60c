"""What a router's spans tell of requests that went wrong on their way."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.router.stage import Router, Stage
from tests.router.test_failure import CHAT, first_of
from tests.spawned import eventually
from tests.trace.collector import Collector

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(stage: Stage, collector: Collector) -> Iterator[Router]:
    made = Router(stage.redis.url, "--trace.endpoint", collector.url, "--trace.sample", "0")
    yield made
    made.close()


def test_a_resumed_stream_says_so(stage: Stage, traced: Router, collector: Collector) -> None:
    with stage.playing(traced, "w1", "w2") as workers, httpx.Client(base_url=traced.url, timeout=30) as http:
        one, other = first_of(http, workers)
        one.faults.break_after = 3
        asked = {**CHAT, "max_tokens": 9, "stream": True}
        headers = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
        assert "[DONE]" in http.post("/v1/chat/completions", json=asked, headers=headers).text
        collector.until(lambda spans: any(span.name == "chat" for span in spans))
    lost, taken, whole = collector.spans  # in the order of their ends; who came without a trace left none
    assert {span.trace for span in collector.spans} == {TRACE}
    assert whole.events == ["resumed"] and not whole.failed and whole.parent == CLIENT
    assert whole.facts["baton.decode"] == taken.facts["baton.decode"] == other.settings.id
    assert whole.facts["baton.attempts"] == 2 and whole.facts["gen_ai.usage.output_tokens"] == 9
    assert (lost.failed, lost.facts["baton.outcome"], lost.facts["baton.decode"]) == (
        True, "lost", one.settings.id,
    )  # fmt: skip
    assert (taken.failed, taken.facts["baton.outcome"]) == (False, "completed")
    said = eventually_said(traced, TRACE)
    assert said["request"] == whole.facts["baton.request"]


def eventually_said(router: Router, trace: str) -> dict[str, object]:
    def line() -> dict[str, object] | None:
        return next((one for one in router.log if one.get("trace") == trace), None)

    eventually(lambda: line() is not None)
    found = line()
    assert found is not None
    return found


def test_a_router_whose_collector_is_gone_serves_and_stops(stage: Stage) -> None:
    with Collector() as gone:
        url = gone.url
    router = Router(stage.redis.url, "--trace.endpoint", url)
    try:
        with stage.playing(router, "w1"), httpx.Client(base_url=router.url, timeout=30) as http:
            for _ in range(20):
                assert http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 2}).status_code == 200
            eventually(
                lambda: router.said("spans are lost: the collector does not take them") is not None, 30
            )
            assert http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 2}).status_code == 200
    finally:
        router.close()
    assert router.wait(1) == 0
