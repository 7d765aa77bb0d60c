"""Figures over time: rates from counters, percentiles from what histograms saw in between."""

from __future__ import annotations

from baton.router.page.course import KEPT, SPAN, Course, Reading, buckets, total
from baton.telemetry import Metrics


def reading(at: float, count: float = 0.0, fast: float = 0.0, slow: float = 0.0) -> Reading:
    seen = ((0.01, fast), (0.1, fast + slow), (float("inf"), fast + slow))
    return Reading(
        at=at,
        requests=count,
        prompt=100 * count,
        cached=25 * count,
        generated=10 * count,
        ttft=seen,
        itl=seen,
    )


def test_a_point_is_what_happened_since() -> None:
    course = Course()
    assert course.read(reading(10.0)) is None
    point = course.read(reading(12.0, count=4, fast=3, slow=1))
    assert point == {
        "requests_s": 2.0, "tokens_s": 20.0, "hit": 0.25, "ttft_p50": 6.67, "ttft_p99": 96.4,
        "itl_p50": 6.67, "itl_p99": 96.4,
    }  # fmt: skip


def test_nothing_observed_is_no_figure() -> None:
    course = Course()
    course.read(reading(1.0, count=7, fast=7))
    point = course.read(reading(2.0, count=7, fast=7))
    assert point is not None and point["requests_s"] == 0
    assert point["hit"] is None and point["ttft_p50"] is None


def test_percentiles_forget_what_is_long_past() -> None:
    course = Course()
    course.read(reading(0.0))
    course.read(reading(1.0, count=1, slow=1))
    for second in range(2, SPAN + 1):
        point = course.read(reading(float(second), count=1, slow=1))
        assert point is not None and point["ttft_p50"] is not None
    point = course.read(reading(SPAN + 1.0, count=1, slow=1))
    assert point is not None and point["ttft_p50"] is None


def test_five_minutes_are_kept() -> None:
    course = Course()
    for second in range(KEPT + 50):
        course.read(reading(float(second)))
    assert len(course.points) == KEPT


def test_meters_are_read_as_they_are() -> None:
    metrics = Metrics()
    requests = metrics.counter("baton_x_total", "x", ("outcome",))
    requests.labels("completed").inc(3)
    requests.labels("failed").inc()
    assert total(requests) == 4 and total(requests.labels("failed")) == 1
    seconds = metrics.tally("baton_x_seconds", "x", (0.1, 1.0))
    seconds.add(0.5)
    assert buckets(seconds) == ((0.1, 0.0), (1.0, 1.0), (float("inf"), 1.0))
    histogram = metrics.histogram("baton_y_seconds", "y", (0.1, 1.0))
    histogram.observe(0.05)
    assert buckets(histogram) == ((0.1, 1.0), (1.0, 1.0), (float("inf"), 1.0))
