"""The cache beside an allocator and sequences that come and go, against a model that walks everything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from baton.cache import Evicted, PageAllocator, Prefix, RadixCache, Stored

STEADY = settings(derandomize=True, database=None, deadline=None)

Path = tuple[int, ...]
"""A prompt as the model sees it: one number a page."""


def chain(path: Path) -> list[bytes]:
    """Identities as a hash chain gives them: each names its whole prefix."""
    return [bytes(path[: i + 1]) for i in range(len(path))]


def prefixes(path: Path) -> list[Path]:
    return [path[: i + 1] for i in range(len(path))]


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)


@dataclass
class Model:
    """The same cache, with every count and every order worked out from the whole content each time."""

    policy: str
    pages: dict[Path, int] = field(default_factory=dict)
    locks: Counter[Path] = field(default_factory=Counter)
    used: dict[Path, int] = field(default_factory=dict)
    uses: Counter[Path] = field(default_factory=Counter)
    operations: int = 0

    def match(self, path: Path) -> Path:
        found = max((p for p in [(), *prefixes(path)] if p == () or p in self.pages), key=len)
        self.touch(found)
        self.uses.update(prefixes(found))
        return found

    def touch(self, path: Path) -> None:
        self.operations += 1
        self.used.update(dict.fromkeys(prefixes(path), self.operations))

    def insert(self, path: Path, first: int, pages: list[int]) -> tuple[bool, ...]:
        chain = prefixes(path)[first:]
        taken = tuple(p not in self.pages for p in chain)
        for p, page, new in zip(chain, pages, taken, strict=True):
            if new:
                self.pages[p] = page
                self.uses[p] = 0
        self.touch(path)
        return taken

    def is_locked(self, path: Path) -> bool:
        return any(count and locked[: len(path)] == path for locked, count in self.locks.items())

    def evictable(self) -> list[Path]:
        return [path for path in self.pages if not self.is_locked(path)]

    def evict(self, count: int) -> list[int]:
        gone: list[int] = []
        while len(gone) < count:
            parents = {path[:-1] for path in self.pages}
            leaves = [path for path in self.evictable() if path not in parents]
            if not leaves:
                break
            gone.append(self.pages.pop(min(leaves, key=self.order)))
        return gone

    def order(self, path: Path) -> tuple[int, ...]:
        return (self.used[path],) if self.policy == "lru" else (self.uses[path], self.used[path])


@dataclass(eq=False)
class Sequence:
    path: Path
    pages: list[int]
    cached: int
    """How many of its pages, from the front, the cache owns."""
    prefix: Prefix


class Engine(RuleBasedStateMachine):
    """A scheduler's calls in any order: start, commit a chunk, finish, abort, evict."""

    @initialize(policy=st.sampled_from(["lru", "lfu"]), total=st.integers(8, 60))
    def make(self, policy: str, total: int) -> None:
        self.cache = RadixCache(policy)
        self.model = Model(policy)
        self.allocator = PageAllocator(total)
        self.running: list[Sequence] = []
        self.fenced: list[int] = []
        self.mirror: dict[bytes, bytes] = {}

    @rule(path=PROMPTS, at_once=st.booleans())
    def serve(self, path: Path, at_once: bool) -> None:
        """Start a sequence; now and then it is finished before anything else happens."""
        running = len(self.running)
        self.start(path)
        if at_once and len(self.running) > running:
            self.finish(self.running[-1], complete=True, fence=False)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=st.lists(st.integers(0, 2), max_size=2).map(tuple))
    def start_alike(self, data: st.DataObject, more: Path) -> None:
        """A second sequence computes the same pages at the same time."""
        self.start(data.draw(st.sampled_from(self.running)).path + more)

    def start(self, path: Path) -> None:
        match = self.cache.match(chain(path))
        found = self.model.match(path)
        assert match.prefix.depth == len(match.pages) == len(found)
        assert list(match.pages) == [self.model.pages[p] for p in prefixes(found)]
        self.cache.lock(match.prefix)
        self.model.locks[found] += 1
        missing = len(path) - len(found)
        if missing > self.allocator.free:
            self.make_room(missing - self.allocator.free)
        if missing > self.allocator.free:
            self.cache.unlock(match.prefix)
            self.model.locks[found] -= 1
            return
        pages = list(match.pages) + self.allocator.take(missing, match.pages[-1] if match.pages else None)
        self.running.append(Sequence(path, pages, len(found), match.prefix))

    @precondition(lambda self: self.cache.pages > 6)
    @rule(count=st.integers(1, 6))
    def evict(self, count: int) -> None:
        self.make_room(count)

    def make_room(self, count: int) -> None:
        pages = self.cache.evict(count)
        assert pages == self.model.evict(count), "not the pages that were due, in the order they were due"
        self.allocator.give(pages)

    @rule(path=PROMPTS, times=st.integers(1, 3))
    def look(self, path: Path, times: int) -> None:
        """A match that leads to nothing still marks the prefix used."""
        for _ in range(times):
            assert len(self.cache.match(chain(path)).pages) == len(self.model.match(path))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), count=st.integers(0, 7), from_root=st.booleans())
    def commit(self, data: st.DataObject, count: int, from_root: bool) -> None:
        """Insert the next finished pages; from the root, those come along that the cache gave before."""
        sequence = data.draw(st.sampled_from(self.running))
        end = min(len(sequence.path), sequence.cached + count)
        first = 0 if from_root else sequence.cached
        after = self.cache.match([]).prefix if from_root else sequence.prefix
        if from_root:
            self.model.match(())
        self.insert(sequence, after, first, end)

    def insert(self, sequence: Sequence, after: Prefix, first: int, end: int) -> None:
        path, offered = sequence.path[:end], sequence.pages[first:end]
        inserted = self.cache.insert(after, chain(path)[first:], offered)
        assert inserted.taken == self.model.insert(path, first, offered)
        assert inserted.prefix.depth == end
        self.cache.lock(inserted.prefix)
        self.cache.unlock(sequence.prefix)
        self.model.locks[path] += 1
        self.model.locks[sequence.path[: sequence.cached]] -= 1
        for place in range(sequence.cached, end):
            ours, theirs = sequence.pages[place], self.model.pages[sequence.path[: place + 1]]
            if not inserted.taken[place - first]:
                self.allocator.give([ours])
            sequence.pages[place] = theirs
        sequence.cached, sequence.prefix = end, inserted.prefix

    @precondition(lambda self: self.running)
    @rule(data=st.data(), complete=st.booleans(), fence=st.booleans())
    def end(self, data: st.DataObject, complete: bool, fence: bool) -> None:
        self.finish(data.draw(st.sampled_from(self.running)), complete, fence)

    def finish(self, sequence: Sequence, complete: bool, fence: bool) -> None:
        """Insert everything, or abort; what was not inserted is given back or fenced."""
        self.running.remove(sequence)
        if complete:
            self.insert(sequence, sequence.prefix, sequence.cached, len(sequence.path))
        own = sequence.pages[sequence.cached :]
        if fence:
            self.allocator.fence(own)
            self.fenced += own
        else:
            self.allocator.give(own)
        self.cache.unlock(sequence.prefix)
        self.model.locks[sequence.path[: sequence.cached]] -= 1

    @precondition(lambda self: self.fenced)
    @rule()
    def release_fence(self) -> None:
        self.allocator.release_fence(self.fenced)
        self.fenced = []

    @rule()
    def publish(self) -> None:
        """A router that follows the events has the cache's content, and one that asks anew has it too."""
        for event in self.cache.events():
            if isinstance(event, Evicted):
                assert event.identity not in self.mirror.values(), "a parent was evicted before its child"
                del self.mirror[event.identity]
            else:
                assert event.parent == b"" or event.parent in self.mirror, "a child came before its parent"
                assert event.identity not in self.mirror
                self.mirror[event.identity] = event.parent
        content = {bytes(path): bytes(path[:-1]) for path in self.model.pages}
        assert self.mirror == content
        known = {b""}
        for identity, parent in self.cache.snapshot():
            assert parent in known
            known.add(identity)
        assert dict(self.cache.snapshot()) == content
        assert self.cache.events() == []

    @invariant()
    def every_page_has_one_owner(self) -> None:
        self.allocator.check_integrity()
        self.cache.check_integrity()
        cached = list(self.model.pages.values())
        held = [page for sequence in self.running for page in sequence.pages[sequence.cached :]]
        owned = [*cached, *held, *self.fenced]
        assert len(set(owned)) == len(owned)
        assert len(owned) + self.allocator.free == self.allocator.total - 1, "a page was lost"
        for sequence in self.running:
            for path, page in zip(prefixes(sequence.path)[: sequence.cached], sequence.pages, strict=False):
                assert self.model.pages[path] == page, "a locked page was evicted"

    @invariant()
    def counts_are_right(self) -> None:
        assert self.cache.pages == len(self.model.pages)
        assert self.cache.evictable == len(self.model.evictable())

    def teardown(self) -> None:
        """When all sequences have ended, everything can be freed."""
        for sequence in self.running:
            self.allocator.give(sequence.pages[sequence.cached :])
            self.cache.unlock(sequence.prefix)
            self.model.locks[sequence.path[: sequence.cached]] -= 1
        if self.fenced:
            self.allocator.release_fence(self.fenced)
        assert self.cache.evictable == self.cache.pages
        self.make_room(self.cache.pages + 1)
        self.publish()
        assert self.allocator.free == self.allocator.total - 1
        assert self.allocator.largest_run == self.allocator.free
        assert self.mirror == {}


def test_every_history_keeps_every_page() -> None:
    run_state_machine_as_test(Engine, settings=settings(STEADY, max_examples=150, stateful_step_count=120))


def filled(*paths: Path, policy: str = "lru") -> RadixCache:
    """A cache with these prompts in it, in this order; the page of a prefix is its digits."""
    cache = RadixCache(policy)
    root = cache.match([]).prefix
    for path in paths:
        cache.insert(root, chain(path), [page_of(p) for p in prefixes(path)])
    return cache


def page_of(path: Path) -> int:
    return int("".join(map(str, path)))


def test_the_longest_prefix_is_found_and_a_stranger_is_not() -> None:
    cache = filled((1, 2, 3), (1, 2, 4, 5))
    assert cache.match(chain((1, 2, 4, 6))).pages == (1, 12, 124)
    assert cache.match(chain((2, 2))).pages == ()
    assert cache.match([]).prefix.depth == 0
    assert cache.match(chain((1, 2, 3))[1:]).pages == (), "a chain without its beginning is no prefix"
    assert repr(cache) == "<RadixCache lru, 5 pages, 5 evictable>"


def test_the_least_recently_used_prefix_goes_first_and_leaves_before_their_parents() -> None:
    cache = filled((1, 2), (3, 4), (1, 5))
    cache.match(chain((3, 4)))
    assert cache.evict(2) == [12, 15]
    assert cache.evict(9) == [1, 34, 3]
    assert cache.evict(1) == []


def test_the_least_often_used_prefix_goes_first_under_lfu() -> None:
    cache = filled((1, 2), (3, 4), (5,), policy="lfu")
    for path in ((1, 2), (1, 2), (3,), (3, 4), (3, 4), (5,)):
        cache.match(chain(path))
    assert cache.evict(3) == [5, 12, 1], (
        "5 was used once, 1 and 1-2 twice, 3 three times, 3-4 twice but later"
    )
    assert cache.evict(3) == [34, 3]


def test_a_lock_keeps_a_prefix_until_as_many_unlocks_have_come() -> None:
    cache = filled((1, 2, 3), (1, 4))
    prefix = cache.match(chain((1, 2))).prefix
    cache.lock(prefix)
    cache.lock(prefix)
    assert cache.evictable == 2
    assert sorted(cache.evict(9)) == [14, 123]
    cache.unlock(prefix)
    assert (cache.evictable, cache.evict(9)) == (0, [])
    cache.unlock(prefix)
    assert (cache.evictable, cache.evict(9)) == (2, [12, 1])
    with pytest.raises(AssertionError, match="was evicted"):
        cache.lock(prefix)


def test_an_unlock_too_many_is_refused() -> None:
    cache = filled((1, 2))
    outer, inner = cache.match(chain((1,))).prefix, cache.match(chain((1, 2))).prefix
    cache.lock(inner)
    with pytest.raises(AssertionError, match="is not locked"):
        cache.unlock(outer)
    cache.unlock(inner)
    with pytest.raises(AssertionError, match="is not locked"):
        cache.unlock(inner)


def test_insert_takes_what_is_new_and_leaves_what_is_there() -> None:
    cache = filled((1, 2))
    root = cache.match([]).prefix
    inserted = cache.insert(root, chain((1, 2, 3)), [1, 99, 123])
    assert inserted.taken == (False, False, True)
    assert inserted.prefix.depth == 3
    assert cache.match(chain((1, 2, 3))).pages == (1, 12, 123), "the page that was there first stays"
    assert cache.insert(root, [], []).prefix is root


def test_insert_refuses_a_position_that_is_not_locked_and_a_broken_chain() -> None:
    cache = filled((1, 2), (3,))
    prefix = cache.match(chain((1,))).prefix
    with pytest.raises(AssertionError, match="is not locked"):
        cache.insert(prefix, [bytes((1, 7))], [17])
    cache.lock(prefix)
    with pytest.raises(AssertionError, match="not a chain"):
        cache.insert(prefix, chain((3,)), [99])
    with pytest.raises(AssertionError, match="1 identities for 2 pages"):
        cache.insert(prefix, [bytes((1, 7))], [17, 18])


def test_events_tell_the_net_change_in_an_order_that_can_be_replayed() -> None:
    cache = filled((1, 2))
    assert cache.events() == [Stored(b"\1", b""), Stored(b"\1\2", b"\1")]
    root = cache.match([]).prefix
    cache.evict(2)
    cache.insert(root, chain((1, 3)), [1, 13])
    assert cache.events() == [Evicted(b"\1\2"), Stored(b"\1\3", b"\1")], "1 came back before anybody asked"
    cache.insert(root, chain((4,)), [4])
    cache.match(chain((1, 3)))
    assert cache.evict(1) == [4]
    assert cache.events() == [], "4 came and went"
    assert cache.snapshot() == [(b"\1", b""), (b"\1\3", b"\1")]


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_evicting_costs_no_more_than_what_goes(policy: str) -> None:
    """From 50,000 leaves 10,000 times: a walk over all of them a call would take many minutes."""
    cache = RadixCache(policy)
    root = cache.match([]).prefix
    for page in range(50_000):
        cache.insert(root, [b"%d" % page], [page])
    for page in range(10_000):
        cache.match([b"%d" % (49_999 - page)])
        assert cache.evict(1) == [page]
    cache.check_integrity()
