"""The order of the waiting queue, and who is retracted: pure functions over sequences."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.core.errors import InvalidSetting
from baton.core.types import Request, SamplingParams
from baton.engine.policy import (
    MATCHED_QUEUE,
    POLICIES,
    RISE_S,
    CachedPages,
    hopeless,
    policy_named,
    victims,
)
from baton.engine.sequence import NEVER, Sequence


def sequence(
    arrival: int, path: str = "", priority: int = 0, *, queued_at: float = 0.0, due: float = NEVER
) -> Sequence:
    """`path`: a letter for each page of its prompt."""
    identities = tuple(path[: i + 1].encode() for i in range(len(path)))
    request = Request(id=f"r{arrival}", token_ids=(1,), identities=identities, priority=priority)
    return Sequence(request, arrival, 100, frozenset(), queued_at=queued_at, due=due)


def order(
    policy: str, waiting: list[Sequence], cached: CachedPages = lambda s: 0, now: float = 0.0
) -> list[int]:
    before = list(waiting)
    found = [s.arrival for s in policy_named(policy).order(waiting, cached, now)]
    assert waiting == before, "the queue is not the policy's to change"
    assert sorted(found) == sorted(s.arrival for s in waiting)
    return found


def never(sequence: Sequence) -> int:
    raise AssertionError("asked for the cache in vain")


def test_fcfs_keeps_the_order_of_arrival() -> None:
    assert order("fcfs", [sequence(i, priority=-i) for i in range(5)], never) == [0, 1, 2, 3, 4]


def test_priority_starts_the_lowest_number_first_and_equals_by_arrival() -> None:
    queue = [sequence(i, priority=p) for i, p in enumerate([2, -1, 2, 0, -1])]
    assert order("priority", queue, never) == [1, 4, 3, 0, 2]


@st.composite
def queues(draw: st.DrawFn) -> list[Sequence]:
    """In order of arrival; deadlines that are short, long, past or none."""
    made, now = [], 0.0
    for i in range(draw(st.integers(1, 12))):
        now += draw(st.sampled_from([0.0, 0.125, 3.0, RISE_S, 25.0]))
        due = now + draw(st.sampled_from([-1.0, 0.5, 5.0, 60.0, 600.0, NEVER]))
        made.append(sequence(i, priority=draw(st.integers(-2, 2)), queued_at=now, due=due))
    return made


@given(queues())
def test_within_a_priority_the_earliest_deadline_is_first(queue: list[Sequence]) -> None:
    now = max(s.queued_at for s in queue)
    fresh = [s for s in queue if now - s.queued_at < RISE_S]
    found = [next(s for s in fresh if s.arrival == a) for a in order("priority", fresh, never, now)]
    for ahead, behind in itertools.pairwise(found):
        assert ahead.request.priority <= behind.request.priority
        if ahead.request.priority == behind.request.priority:
            assert (ahead.due, ahead.arrival) < (behind.due, behind.arrival)


@given(queues(), st.sampled_from([0.0, 7.0, 100.0]))
def test_nobody_is_overtaken_by_those_who_come_much_later(queue: list[Sequence], later: float) -> None:
    """However urgent they are, and however many."""
    now = max(s.queued_at for s in queue) + later
    place = {arrival: at for at, arrival in enumerate(order("priority", queue, never, now))}
    for one in queue:
        for other in queue:
            ahead = max(0, one.request.priority - other.request.priority)
            if other.queued_at >= one.queued_at + RISE_S * (1 + ahead):
                assert place[one.arrival] < place[other.arrival]


def test_a_deadline_is_hopeless_when_the_engine_at_its_fastest_cannot_meet_it() -> None:
    def late(tokens: int, left_s: float, tokens_per_s: float = 100.0, cached: int = 0) -> bool:
        request = Request(id="r", token_ids=tuple(range(tokens)))
        one = Sequence(request, 0, 1000, frozenset(), due=50.0 + left_s)
        return hopeless(one, 50.0, tokens_per_s, lambda s: cached)

    assert not late(100, 1.0)
    assert late(101, 1.0) and not late(101, 1.0, cached=32)
    assert not late(500, 0.01, tokens_per_s=0.0), "how fast it is was not measured yet"
    assert late(1, 0.0, tokens_per_s=0.0), "it has passed"
    assert not late(500, NEVER)


def test_who_has_had_a_token_in_time_is_not_late_when_it_is_computed_again() -> None:
    one = Sequence(Request(id="r", token_ids=(1, 2)), 0, 100, frozenset(), due=1.0)
    one.tokens.append(3)
    assert not hopeless(one, 50.0, 100.0, lambda s: 0)


def test_lpm_starts_the_longest_cached_prefix_first_and_equals_by_arrival() -> None:
    cached = {0: 1, 1: 5, 2: 0, 3: 5, 4: 1}
    assert order("lpm", [sequence(i) for i in range(5)], lambda s: cached[s.arrival]) == [1, 3, 0, 4, 2]


def test_lof_starts_the_longest_output_first_and_equals_by_arrival() -> None:
    some = SamplingParams(max_tokens=1000)
    queue = [
        Sequence(Request(id=str(i), token_ids=(1,) * prompt, sampling=some), i, limit, frozenset())
        for i, (prompt, limit) in enumerate([(1, 110), (1, 300), (1, 200), (1, 300), (100, 305)])
    ]
    assert order("lof", queue, never) == [1, 3, 4, 2, 0]


def test_lof_takes_those_without_a_limit_first_and_by_arrival_however_long_their_prompts_are() -> None:
    queue = []
    for i, (prompt, most) in enumerate([(1, 290), (50, None), (5, None), (20, None)]):
        asked = SamplingParams(max_tokens=most)
        request = Request(id=str(i), token_ids=(1,) * prompt, sampling=asked)
        queue.append(Sequence(request, i, 300 if most is None else prompt + most, frozenset()))
    assert order("lof", queue, never) == [1, 2, 3, 0]


def test_dfs_weight_walks_the_busiest_branch_to_its_end() -> None:
    paths = ["", "ax", "b", "ay", "by", "ax", "a", "c"]
    queue = [sequence(i, path) for i, path in enumerate(paths)]
    found = order("dfs-weight", queue, lambda s: len(s.identities))
    assert [paths[i] for i in found] == ["ax", "ax", "ay", "a", "by", "b", "c", ""]
    assert found[:2] == [1, 5]


def test_dfs_weight_looks_at_cached_pages_alone() -> None:
    queue = [sequence(0, "aaa"), sequence(1, "bbb"), sequence(2, "bbc")]
    assert order("dfs-weight", queue, lambda s: 0) == [0, 1, 2]
    assert order("dfs-weight", queue, lambda s: 2) == [1, 2, 0]


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight"])
def test_a_long_queue_is_not_matched_every_step(policy: str) -> None:
    queue = [sequence(i) for i in range(MATCHED_QUEUE + 1)]
    assert order(policy, queue, never) == list(range(MATCHED_QUEUE + 1))


def test_the_least_urgent_then_the_youngest_gives_its_pages_up_first() -> None:
    holders = [sequence(i, priority=p) for i, p in enumerate([0, 5, 0, 5, 1])]
    assert [s.arrival for s in victims(holders)] == [3, 1, 4, 2, 0]


def test_an_unknown_policy_names_the_known() -> None:
    with pytest.raises(InvalidSetting, match=r"policy: .*'sjf'; there are fcfs, lof, lpm, dfs-weight, "):
        policy_named("sjf")
    assert all(policy_named(name) is policy for name, policy in POLICIES.items())
