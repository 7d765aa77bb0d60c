"""What a scraper reads, and which names are let in. Read back with Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from baton.core.version import version
from baton.telemetry import CONTENT_TYPE, Metrics, buckets


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
        if one.name.startswith("baton_")
    }


def test_what_was_counted_is_what_is_read() -> None:
    metrics = Metrics()
    ended = metrics.counter("baton_requests_total", "Requests that ended.", ["how"])
    free = metrics.gauge("baton_free_pages", "Pages that nobody owns.")
    first = metrics.histogram("baton_first_token_seconds", "Time to the first token.", (0.1, 1.0))
    ended.labels("completed").inc(2)
    ended.labels('odd "one"\n').inc()
    free.set(7)
    first.observe(0.5)
    samples = _samples(metrics)
    assert samples.pop(("baton_build_info", (("version", version()),))) == 1
    assert samples == {
        ("baton_requests_total", (("how", "completed"),)): 2,
        ("baton_requests_total", (("how", 'odd "one"\n'),)): 1,
        ("baton_free_pages", ()): 7,
        ("baton_first_token_seconds_bucket", (("le", "0.1"),)): 0,
        ("baton_first_token_seconds_bucket", (("le", "1.0"),)): 1,
        ("baton_first_token_seconds_bucket", (("le", "+Inf"),)): 1,
        ("baton_first_token_seconds_count", ()): 1,
        ("baton_first_token_seconds_sum", ()): 0.5,
    }


def test_the_process_s_own_figures_are_there_and_births_are_not() -> None:
    metrics = Metrics()
    metrics.counter("baton_requests_total", "Requests that ended.").inc()
    text = metrics.render().decode()
    assert "\nprocess_resident_memory_bytes " in text
    assert "_created" not in text
    assert "# TYPE baton_requests_total counter\n" in text
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_a_figure_may_also_go_by_the_name_that_others_gave_it() -> None:
    metrics = Metrics()
    metrics.familiar("vllm:num_requests_running", "Running.", ["model_name"]).labels("m").set(3)
    assert '\nvllm:num_requests_running{model_name="m"} 3.0\n' in metrics.render().decode()
    with pytest.raises(AssertionError):
        metrics.familiar("mine:own", "Nobody knows it.")


def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.gauge("baton_free_pages", "Pages that nobody owns.").set(1)
    other.gauge("baton_free_pages", "Pages that nobody owns.").set(2)
    assert (_samples(one)[("baton_free_pages", ())], _samples(other)[("baton_free_pages", ())]) == (1, 2)


def test_a_name_is_taken_once() -> None:
    metrics = Metrics()
    metrics.gauge("baton_free_pages", "Pages that nobody owns.")
    with pytest.raises(ValueError, match="baton_free_pages"):
        metrics.gauge("baton_free_pages", "Pages that nobody owns.")


@pytest.mark.parametrize(
    "make",
    [
        lambda metrics: metrics.counter("baton_requests", "No _total."),
        lambda metrics: metrics.counter("requests_total", "Not ours."),
        lambda metrics: metrics.gauge("baton_Free", "Upper case."),
        lambda metrics: metrics.gauge("baton:free", "A colon."),
        lambda metrics: metrics.histogram("baton_first_token", "No unit.", buckets.REQUEST_SECONDS),
        lambda metrics: metrics.gauge("baton_free_pages", "A series per request.", ["request"]),
    ],
)
def test_names_and_labels_that_are_not_let_in(make: Callable[[Metrics], object]) -> None:
    with pytest.raises(AssertionError):
        make(Metrics())


@pytest.mark.parametrize("name", sorted(name for name in vars(buckets) if name.isupper()))
def test_bounds_rise_and_are_few(name: str) -> None:
    bounds = getattr(buckets, name)
    assert list(bounds) == sorted(set(bounds))
    assert 10 <= len(bounds) <= 24
