"""A request through real processes (router, decode and prefill pod): one trace, whose parts fit together."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.running import Running
from tests.trace.collector import Collector, Seen

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, CLIENT_KIND = 2, 3
ASKED = {
    "model": "tiny", "max_tokens": 8, "temperature": 0,
    "messages": [{"role": "user", "content": "What is a prefill pod, and what is handed over? " * 8}],
}  # fmt: skip


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Running]:
    words = "--prefill", "1", "--decode", "1", "--handoffs", "always"
    with Running(*words, settings={"BATON_TRACE__ENDPOINT": collector.url}) as made:
        yield made


def of_trace(collector: Collector, trace: str, count: int) -> dict[str, Seen]:
    """The spans of one trace by what they are called, once there are so many."""
    collector.until(lambda spans: sum(one.trace == trace for one in spans) >= count)
    found = [one for one in collector.spans if one.trace == trace]
    assert len(found) == count == len({(one.service, one.name) for one in found}), found
    return {f"{one.service} {one.name}": one for one in found}


@pytest.mark.parametrize("stream", [False, True])
def test_one_trace_over_three_services(traced: Running, collector: Collector, stream: bool) -> None:
    trace = TRACE[:-1] + str(int(stream))
    headers = {"traceparent": f"00-{trace}-{CLIENT}-01"}
    asked = {**ASKED, "stream": stream, "cache_salt": f"{stream}"}
    answer = httpx.post(f"{traced.url}/v1/chat/completions", json=asked, headers=headers, timeout=60)
    assert answer.status_code == 200
    spans = of_trace(collector, trace, 4)
    router, attempt = spans["baton-router chat"], spans["baton-router attempt"]
    decode, leg = spans["baton-decode placed"], spans["baton-prefill leg"]
    parents = [one.parent for one in (router, attempt, decode, leg)]
    assert parents == [CLIENT, router.id, attempt.id, decode.id]
    assert [one.kind for one in (router, attempt, decode, leg)] == [SERVER, CLIENT_KIND, SERVER, SERVER]
    assert not any(one.failed for one in spans.values())

    placed = {"decode": "decode-0", "prefill": "prefill-0"}
    assert {name: router.facts[f"baton.{name}"] for name in placed} == placed
    assert attempt.facts.items() >= {f"baton.{name}": pod for name, pod in placed.items()}.items()
    assert router.facts["http.response.status_code"] == 200 and router.facts["baton.predicted_ttft"] > 0
    assert router.facts["gen_ai.usage.input_tokens"] == decode.facts["gen_ai.usage.input_tokens"] > 32
    assert router.facts["gen_ai.usage.output_tokens"] == 8
    assert decode.facts["baton.handed"] > 0
    assert {"queued", "reserved", "asked", "prefill started", "first token", "merged"} <= set(decode.events)
    assert decode.events.index("reserved") < decode.events.index("asked")
    assert "prefill started" in leg.events and leg.facts["baton.pages"] > 0
    for inner, outer in ((attempt, router), (decode, attempt), (leg, decode)):
        assert inner.times_ns[0] >= outer.times_ns[0] - 5e6  # clocks of one host, rounded


def test_a_collector_that_has_died_fails_nothing(traced: Running, collector: Collector) -> None:
    collector.deaf.set()
    try:
        for number in range(4):
            asked = {**ASKED, "cache_salt": f"dead {number}"}
            answer = httpx.post(f"{traced.url}/v1/chat/completions", json=asked, timeout=60)
            assert answer.status_code == 200
    finally:
        collector.deaf.clear()
