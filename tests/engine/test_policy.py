"""The order of the waiting queue, and who is retracted: pure functions over sequences."""

from __future__ import annotations

import pytest

from baton.core.errors import InvalidSetting
from baton.core.types import Request
from baton.engine.policy import MATCHED_QUEUE, POLICIES, CachedPages, policy_named, victims
from baton.engine.sequence import Sequence


def sequence(arrival: int, path: str = "", priority: int = 0) -> Sequence:
    """`path`: a letter for each page of its prompt."""
    identities = tuple(path[: i + 1].encode() for i in range(len(path)))
    request = Request(id=f"r{arrival}", token_ids=(1,), identities=identities, priority=priority)
    return Sequence(request, arrival, 100, frozenset())


def order(policy: str, waiting: list[Sequence], cached: CachedPages = lambda s: 0) -> list[int]:
    before = list(waiting)
    found = [s.arrival for s in policy_named(policy)(waiting, cached)]
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


def test_lpm_starts_the_longest_cached_prefix_first_and_equals_by_arrival() -> None:
    cached = {0: 1, 1: 5, 2: 0, 3: 5, 4: 1}
    assert order("lpm", [sequence(i) for i in range(5)], lambda s: cached[s.arrival]) == [1, 3, 0, 4, 2]


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
    with pytest.raises(InvalidSetting, match=r"policy: .*'sjf'; there are fcfs, lpm, dfs-weight, priority"):
        policy_named("sjf")
    assert all(policy_named(name) is policy for name, policy in POLICIES.items())
