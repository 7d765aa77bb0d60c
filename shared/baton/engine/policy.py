"""In which order waiting sequences are looked at. Pure functions over the queue; admission comes after.

Each order takes the waiting sequences in order of arrival, a function that tells how many leading pages of a
sequence are cached now, and the time, and returns a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from baton.core.errors import InvalidSetting
from baton.engine.sequence import NEVER, Sequence

CachedPages = Callable[[Sequence], int]
Order = Callable[[list[Sequence], CachedPages, float], list[Sequence]]

LOOKED_AT = 512
"""Waiting sequences that one step considers; bounds the host's time when the queue is long."""
MATCHED_QUEUE = 128
"""Longest queue whose every member is matched against the cache each step; longer ones go by arrival."""
RISE_S = 10.0
"""Who waits rises by one priority in this time, so nobody waits for ever for those who come later."""


@dataclass(frozen=True, slots=True)
class Policy:
    order: Order
    gives_way: bool = False
    """Whether in a mixed step a running sequence leaves its line to prompts whose answers will be longer than
    what is left of its own."""


def fcfs(waiting: list[Sequence], cached: CachedPages, now: float) -> list[Sequence]:
    return waiting


def priority(waiting: list[Sequence], cached: CachedPages, now: float) -> list[Sequence]:
    """The most urgent priority first, within one the earliest deadline, then by arrival.

    Nobody is overtaken by who came `RISE_S * (1 + the difference of their priorities)` later.
    """
    return sorted(
        waiting, key=lambda s: (s.request.priority - (now - s.queued_at) // RISE_S, s.due, s.arrival)
    )


def left(sequence: Sequence) -> float:
    """Tokens that its answer may still have; infinite where nobody gave a `max_tokens`."""
    bounded = sequence.leg is not None or sequence.request.sampling.max_tokens is not None
    return sequence.limit - len(sequence.tokens) - sequence.pending if bounded else inf


def known(sequence: Sequence) -> bool:
    """Whether its answer will have all the tokens that are left."""
    ends = sequence.stops or sequence.request.sampling.stop or sequence.matcher is not None
    return not ends and left(sequence) < inf


def lof(waiting: list[Sequence], cached: CachedPages, now: float) -> list[Sequence]:
    """Longest output first, by `max_tokens`; who gave none may be the longest. Equals by arrival.

    For work that is all there at once: it ends no sooner than its longest answer, and short ones fill
    the steps that the long ones need anyway. Where those who run give way too, all end together: no
    steps are left for the last few.
    """
    return sorted(waiting, key=lambda s: (-left(s), s.arrival))


def lpm(waiting: list[Sequence], cached: CachedPages, now: float) -> list[Sequence]:
    """Longest cached prefix first, so that pages are used before they are evicted."""
    if len(waiting) > MATCHED_QUEUE:
        return waiting
    return sorted(waiting, key=lambda s: (-cached(s), s.arrival))


def dfs_weight(waiting: list[Sequence], cached: CachedPages, now: float) -> list[Sequence]:
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


POLICIES: dict[str, Policy] = {
    "fcfs": Policy(fcfs),
    "lof": Policy(lof, gives_way=True),
    "lpm": Policy(lpm),
    "dfs-weight": Policy(dfs_weight),
    "priority": Policy(priority),
}


def policy_named(name: str) -> Policy:
    if name not in POLICIES:
        raise InvalidSetting("policy", f"no policy is named {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name]


def victims(holders: Iterable[Sequence]) -> list[Sequence]:
    """Who gives its pages up first when there are too few: the least urgent, then the youngest."""
    return sorted(holders, key=lambda s: (s.request.priority, s.arrival), reverse=True)


def hopeless(sequence: Sequence, now: float, tokens_per_s: float, cached_tokens: CachedPages) -> bool:
    """Whether a sequence's deadline cannot be met: not even by computing its prompt at once, alone, and as
    fast as this engine ever did of late (`tokens_per_s`; 0 is not known)."""
    if sequence.due == NEVER or sequence.generated > sequence.given - sequence.prompt:
        return False  # none, or it was met: this one was sent back to the queue
    left_s = sequence.due - now
    if left_s <= 0:
        return True
    tokens = len(sequence.tokens) - sequence.computed
    if not tokens_per_s or tokens <= left_s * tokens_per_s:
        return False
    return tokens - cached_tokens(sequence) > left_s * tokens_per_s
