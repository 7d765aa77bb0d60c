"""Who is kept away from, and for how long, without a socket."""

from __future__ import annotations

from baton.router.pods.shunning import FIRST_S, LONGEST_S, Shunning, pause_after
from baton.testing import ManualClock


async def never(id: str) -> bool:
    return False


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause_after(failures) for failures in (1, 2, 3)] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert pause_after(10) == LONGEST_S


def test_a_pod_may_fail_for_days() -> None:
    clock = ManualClock()
    shunning = Shunning(clock, never)
    for _ in range(2000):  # a probe each 15 seconds: some eight hours
        shunning.failed("d1", "run-1", "it does not take connections")
        clock.advance(LONGEST_S + 1)
    assert shunning.shunned == {"d1"}
    assert pause_after(1_000_000) == LONGEST_S
