"""Random requests over two prefill and two decode pods, with kills, restarts and clients that leave."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.faults.fleet import Fleet
from tests.faults.storm import Asked, Storm, Wrong, costs, near_tie, questions

from baton.engine import LLM


def storm(fleet: Fleet, alone: LLM, count: int, kills: int, seed: int, *, spare: bool) -> Storm:
    asked = questions(count, seed)
    outputs = alone.generate([one.prompt for one in asked], [one.sampling for one in asked])
    spared = [fleet.prefills[0], fleet.decodes[0]] if spare else []
    made = Storm(fleet, asked, [output.token_ids for output in outputs], kills, spared, seed)
    began = time.monotonic()
    asyncio.run(made.run())
    ties = [wrong for wrong in made.wrong if near_tie(alone, wrong)]
    print(
        f"{count} requests, {kills} kills, seed {seed}: {made.done} answered, {made.left} left by their "
        f"clients, {made.lost} times asked again, {len(made.wrong)} with other tokens, of them {len(ties)} "
        f"at near ties, {time.monotonic() - began:.0f} s"
    )
    fleet.mend()
    fleet.await_clean(60)
    assert made.wrong == ties, [str(wrong) for wrong in made.wrong]
    assert len(ties) <= 1 + count // 1000, "so many are no accident"
    assert made.done + made.left == count and made.killed == kills and made.left > count // 25
    return made


def test_what_is_no_near_tie_is_not_taken_for_one(alone: LLM) -> None:
    (greedy, drawn) = (
        Asked("The moon", {"max_tokens": 4, **more}, None) for more in ({}, {"temperature": 0.8, "seed": 3})
    )
    for asked in (greedy, drawn):
        (output,) = alone.generate([asked.prompt], asked.sampling)
        want = list(output.token_ids)
        assert not near_tie(alone, Wrong(asked, want[:-1], want))
        assert not near_tie(alone, Wrong(asked, [*want[:2], (want[2] + 1) % 300, want[3]], want))


@pytest.mark.timeout(300)
def test_a_hundred_requests_survive_kills(fleet: Fleet, alone: LLM) -> None:
    assert storm(fleet, alone, 100, kills=2, seed=7, spare=False).lost > 0


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_thousands_of_requests_survive_kills_and_leave_nothing_behind(fleet: Fleet, alone: LLM) -> None:
    """First any pod may die; then two of them live on, and must not grow while the others come and go."""
    storm(fleet, alone, 2000, kills=20, seed=8, spare=False)
    storm(fleet, alone, 500, kills=4, seed=9, spare=True)
    pods = (fleet.prefills[0], fleet.decodes[0])
    before = [costs(pod) for pod in pods]
    storm(fleet, alone, 2500, kills=24, seed=10, spare=True)
    for old, new in zip(before, [costs(pod) for pod in pods], strict=True):
        assert new.threads <= old.threads + 2, (old, new)
        assert new.sockets <= old.sockets + 8, (old, new)
        assert new.files <= old.files + 12, (old, new)
        assert new.megabytes <= old.megabytes * 1.05 + 20, (old, new)
