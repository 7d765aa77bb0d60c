"""Spans of one process: what is sent, what is not, and that a collector can cost nothing but spans."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.trace.collector import Collector, Seen

from baton.core.errors import InvalidSetting
from baton.trace import NO_SPAN, SILENT, TraceSettings, tracing_to
from baton.trace.otlp import FLUSH_S, address

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


def test_a_process_without_an_endpoint_loads_nothing_that_makes_or_sends_spans() -> None:
    code = (
        "import sys, baton.router.process, baton.decode.app, baton.decode.__main__, baton.prefill.__main__\n"
        "from baton.trace import SILENT, TraceSettings, tracing_to\n"
        "with tracing_to(TraceSettings(), 'baton-router', 'one') as tracing:\n"
        "    assert tracing is SILENT\n"
        "unwanted = {'opentelemetry.sdk.trace', 'opentelemetry.exporter', 'baton.trace.otlp'}\n"
        "assert not unwanted & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_an_endpoint_nothing_is_made_or_passed_on() -> None:
    span = SILENT.serve("chat", SAMPLED, time.monotonic())
    assert span is NO_SPAN and span.begin("attempt") is NO_SPAN
    assert (span.header, span.recorded) == ("", False)
    span.tell(status=200)
    span.mark("retried")
    span.marks([("queued", 1.0)])
    span.end("failed")


def test_a_span_arrives_with_all_that_was_said_of_it() -> None:
    with Collector() as collector:
        with tracing_to(TraceSettings(endpoint=collector.url), "baton-decode", "decode-0") as tracing:
            before, began = time.time_ns(), time.monotonic() - 2.0
            span = tracing.serve("chat", SAMPLED, began)
            part = span.begin("attempt", decode="decode-0")
            part.end("the pod was lost")
            span.marks([("queued", began + 0.5), ("first token", began + 1.5)])
            span.mark("resumed", cause="lost")
            span.tell(status=200, model="tiny", prompt_tokens=7, cached=None, stream=True, ttft=1.5)
            span.end()
        part_seen, whole = collector.spans
    assert collector.paths == {"/v1/traces"}
    assert (whole.trace, whole.parent, whole.failed) == (TRACE, PARENT, False)
    assert whole.service == "baton-decode" and whole.about["service.instance.id"] == "decode-0"
    assert whole.facts == {
        "http.response.status_code": 200, "gen_ai.request.model": "tiny", "gen_ai.usage.input_tokens": 7,
        "baton.stream": True, "baton.ttft": 1.5,
    }  # fmt: skip
    assert whole.events == ["queued", "first token", "resumed"]
    assert whole.times_ns == sorted(whole.times_ns)
    start, queued, first, *_ = whole.times_ns
    assert (queued - start) / 1e9 == pytest.approx(0.5, abs=0.05)
    assert (first - start) / 1e9 == pytest.approx(1.5, abs=0.05)
    assert (before - start) / 1e9 == pytest.approx(2.0, abs=0.2)
    assert (part_seen.trace, part_seen.parent, part_seen.failed) == (TRACE, whole.id, True)
    assert part.header.split("-")[1:3] == [TRACE, part_seen.id]


@pytest.mark.parametrize("sample", [0.0, 1.0])
def test_who_comes_with_a_trace_has_been_decided_upon(sample: float) -> None:
    with Collector() as collector:
        with tracing_to(TraceSettings(endpoint=collector.url, sample=sample), "r", "r") as tracing:
            for header in (SAMPLED, UNSAMPLED, None, "no traceparent"):
                span = tracing.serve(str(header), header, time.monotonic())
                assert bool(int(span.begin("attempt").header[-2:], 16) & 1) is span.recorded
                span.end()
        names = {one.name for one in collector.spans}
    alone = {"None", "no traceparent"} if sample else set()
    assert names == {SAMPLED} | alone
    fresh = [one for one in collector.spans if one.name in alone]
    assert all(one.trace != TRACE and not one.parent for one in fresh)


def test_the_share_of_requests_that_is_traced() -> None:
    with tracing_to(TraceSettings(endpoint="http://127.0.0.1:9", sample=0.25), "r", "r") as tracing:
        traced = sum(tracing.serve("chat", None, time.monotonic()).recorded for _ in range(4000))
    assert 800 <= traced <= 1200


def test_a_collector_that_never_answers_holds_nobody_up() -> None:
    with Collector() as collector:
        collector.deaf.set()
        with tracing_to(TraceSettings(endpoint=collector.url), "r", "r") as tracing:
            tracing.serve("chat", None, time.monotonic()).end()
            assert collector.asked.wait(20)  # the thread hangs in its answer now
            for _ in range(10_000):  # more than may wait
                tracing.serve("chat", None, time.monotonic()).end()
            closing = time.monotonic()
        assert time.monotonic() - closing < FLUSH_S + 3.0


def test_spans_arrive_again_once_the_collector_is_back(caplog: pytest.LogCaptureFixture) -> None:
    def names(spans: list[Seen]) -> list[str]:
        return [one.name for one in spans]

    with Collector() as collector:
        port = collector.port
    with tracing_to(TraceSettings(endpoint=f"http://127.0.0.1:{port}"), "r", "r") as tracing:
        deadline = time.monotonic() + 30
        while "spans are lost: the collector does not take them" not in caplog.messages:
            tracing.serve("lost", None, time.monotonic()).end()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with Collector(port) as collector:
            tracing.serve("found", None, time.monotonic()).end()
            collector.until(lambda spans: "found" in names(spans))


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://otel:4318", "http://otel:4318/v1/traces"),
        ("http://otel:4318/", "http://otel:4318/v1/traces"),
        ("https://otel/own/v1/traces", "https://otel/own/v1/traces"),
    ],
)
def test_a_base_address_gets_the_usual_path(given: str, asked: str) -> None:
    assert address(given) == asked


@pytest.mark.parametrize("wrong", [{"endpoint": "otel:4317"}, {"sample": 1.5}, {"sample": -0.1}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        TraceSettings(**wrong)  # type: ignore[arg-type]
