"""In which order waiting sequences are looked at. Pure functions over the queue; admission comes after.

Each takes the waiting sequences in order of arrival and a function that tells how many leading pages
of a sequence are cached now, and returns a new order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from baton.core.errors import InvalidSetting
from baton.engine.sequence import Sequence

CachedPages = Callable[[Sequence], int]
Policy = Callable[[list[Sequence], CachedPages], list[Sequence]]

MATCHED_QUEUE = 128
"""Longest queue whose every member is matched against the cache each step; longer ones go by arrival."""


def fcfs(waiting: list[Sequence], cached: CachedPages) -> list[Sequence]:
    return waiting


def priority(waiting: list[Sequence], cached: CachedPages) -> list[Sequence]:
    return sorted(waiting, key=lambda s: (s.request.priority, s.arrival))


def lpm(waiting: list[Sequence], cached: CachedPages) -> list[Sequence]:
    """Longest cached prefix first, so that pages are used before they are evicted."""
    if len(waiting) > MATCHED_QUEUE:
        return waiting
    return sorted(waiting, key=lambda s: (-cached(s), s.arrival))


def dfs_weight(waiting: list[Sequence], cached: CachedPages) -> list[Sequence]:
    """Walk the tree of cached prefixes depth first, the branch that most sequences wait for first.

    The walk is a sort: each sequence's key lists, page by page, (demand of that page, the page).
    """
    if len(waiting) > MATCHED_QUEUE:
        return waiting
    paths = {s: s.identities[: cached(s)] for s in waiting}
    demand = Counter(page for path in paths.values() for page in path)

    def key(sequence: Sequence) -> tuple[list[tuple[int, bytes]], int]:
        steps = [(-demand[page], page) for page in paths[sequence]]
        return [*steps, (1, b"")], sequence.arrival  # the end of a path sorts after every continuation

    return sorted(waiting, key=key)


POLICIES: dict[str, Policy] = {"fcfs": fcfs, "lpm": lpm, "dfs-weight": dfs_weight, "priority": priority}


def policy_named(name: str) -> Policy:
    if name not in POLICIES:
        raise InvalidSetting("policy", f"no policy is named {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name]


def victims(holders: Iterable[Sequence]) -> list[Sequence]:
    """Who gives its pages up first when there are too few: the least urgent, then the youngest."""
    return sorted(holders, key=lambda s: (s.request.priority, s.arrival), reverse=True)
