"""Figures over time: rates from counters, percentiles from what histograms saw in between."""

from __future__ import annotations

from msgspec import structs

from baton.router.page.course import (
    KEPT,
    SPAN,
    Course,
    Point,
    Reading,
    buckets,
    merged,
    points,
    quantile,
    total,
)
from baton.router.page.parts import Part
from baton.router.page.parts import course as whole
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


def pointed(course: Course) -> list[Point]:
    return points([merged([one]) for one in course.seconds], KEPT)


def test_a_point_is_what_happened_since() -> None:
    course = Course()
    assert course.read(10, reading(10.0)) is None
    assert course.read(12, reading(12.0, count=4, fast=3, slow=1)) is not None
    assert pointed(course) == [{
        "requests_s": 2.0, "tokens_s": 20.0, "hit": 0.25, "ttft_p50": 6.67, "ttft_p99": 96.4,
        "itl_p50": 6.67, "itl_p99": 96.4,
    }]  # fmt: skip


def test_nothing_observed_is_no_figure() -> None:
    course = Course()
    course.read(1, reading(1.0, count=7, fast=7))
    course.read(2, reading(2.0, count=7, fast=7))
    (point,) = pointed(course)
    assert point["requests_s"] == 0
    assert point["hit"] is None and point["ttft_p50"] is None


def test_what_took_longer_than_any_bound_is_told_by_the_bound() -> None:
    assert quantile(((0.1, float("inf"), 3.0),), 0.5) == 100.0
    assert quantile(((0.0, 0.01, 1.0), (1.0, 3.0, 1.0)), 0.75) == 2000.0, "empty buckets lie between"


def test_percentiles_forget_what_is_long_past() -> None:
    course = Course()
    for second in range(SPAN + 2):
        course.read(second, reading(float(second), count=min(second, 1), slow=min(second, 1)))
    *before, last = pointed(course)
    assert len(before) == SPAN and all(one["ttft_p50"] is not None for one in before)
    assert last["ttft_p50"] is None


def test_seconds_that_nobody_counted_are_past_too() -> None:
    course = Course()
    course.read(1, reading(1.0))
    course.read(2, reading(2.0, count=1, fast=1))
    course.read(2 + SPAN, reading(2.0 + SPAN, count=1, fast=1))
    assert [one["ttft_p50"] is None for one in pointed(course)] == [False, True]


def test_five_minutes_are_kept() -> None:
    course = Course()
    for second in range(KEPT + 50):
        course.read(second, reading(float(second)))
    assert len(pointed(course)) == KEPT


def test_processes_add_up() -> None:
    parts = Part(), Part()
    for part, count, cached in (parts[0], 4, 25), (parts[1], 2, 50):
        course = Course()
        course.read(7, reading(7.0))
        told = course.read(8, reading(8.0, count=count, fast=count))
        assert told is not None
        part.count(structs.replace(told, prompt=100.0 * count, cached=float(cached * count)))
    (point,) = whole(parts, 8, KEPT)
    assert (point["requests_s"], point["tokens_s"], point["ttft_p50"]) == (6.0, 60.0, 5.0)
    assert point["hit"] == 0.25, "pods tell everybody the same: whoever knows most is believed"
    assert whole(parts, 7, KEPT) == []


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
