from __future__ import annotations

import time

from baton.decode.timeline import Timeline
from baton.protocol.engine import Course, Update


def test_what_is_noted_goes_with_the_next_update_and_once() -> None:
    timeline = Timeline(100.0)
    timeline.mark("asked", 101.0)
    first = Update("r", 5, cached=3, course=Course([("queued", 100.5)]))
    timeline.pass_on(first)
    assert first.course == Course([("asked", 101.0), ("queued", 100.5)])
    assert first.cached == 3
    second = Update("r", 6)
    timeline.pass_on(second)
    assert second.course is None, "nothing happened"
    timeline.handed, timeline.prefill = 4096, "p"
    third = Update("r", 7, course=Course([("merged", 103.0)]))
    timeline.pass_on(third)
    assert third.course == Course([("merged", 103.0)], "p", 4096)
    assert [what for what, _ in timeline.marks] == ["asked", "queued", "merged"]


def test_what_was_computed_here_is_timed() -> None:
    marks = [("queued", 1.0), ("prefill started", 2.0), ("first token", 2.5)]
    update = Update("r", 5, cached=0, course=Course(marks))
    assert Timeline(0.0).computed_here(update) == 0.5
    assert Timeline(0.0).computed_here(Update("r", 5)) is None
    again = Update("r", 5, cached=0, course=Course([*marks[:2], ("retracted", 2.1), *marks[1:]]))
    assert Timeline(0.0).computed_here(again) is None
    elsewhere = Timeline(0.0)
    elsewhere.mark("asked")
    assert elsewhere.computed_here(update) is None, "somebody else was asked for it"


def test_what_a_prefill_pod_tells_is_placed_by_its_age() -> None:
    timeline = Timeline(time.monotonic())
    timeline.began_at((("queued", 0.5), ("reserved", 0.4), ("prefill started", 0.25)), cached=32)
    assert [what for what, _ in timeline.marks] == ["prefill queued", "prefill started"]
    (_, queued), (_, started) = timeline.marks
    assert 0.24 < started - queued < 0.26 and time.monotonic() - started >= 0.25
    update = Update("r", 5, cached=0)
    timeline.pass_on(update)
    assert update.cached == 32, "what the pod that computed it found cached"
