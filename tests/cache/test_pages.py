"""The allocator against a set of free pages, over long random histories; and each mistake it must catch."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from baton.cache import PageAllocator, runs
from baton.core.errors import OutOfPages

STEADY = settings(derandomize=True, database=None, deadline=None)


def lengths_by_start(pages: set[int]) -> dict[int, int]:
    """The runs of neighbours in a set of pages, found the slow way."""
    starts = [page for page in pages if page - 1 not in pages]
    return {start: next(n for n in range(1, len(pages) + 1) if start + n not in pages) for start in starts}


def fewest_runs(lengths: list[int], n: int) -> int:
    count = 0
    for length in sorted(lengths, reverse=True):
        if n <= 0:
            break
        n -= length
        count += 1
    return count


class Allocator(RuleBasedStateMachine):
    @initialize(total=st.integers(1, 48))
    def make(self, total: int) -> None:
        self.allocator = PageAllocator(total)
        self.free = set(range(1, total))
        self.taken: list[int] = []
        self.fenced: list[int] = []
        self.generations = [0] * total

    def some(self, data: st.DataObject, pages: list[int]) -> list[int]:
        """Some of these pages, in any order; half of the time neighbours in the list."""
        if data.draw(st.booleans()):
            start = data.draw(st.integers(0, len(pages) - 1))
            return pages[start : start + data.draw(st.integers(1, 12))]
        return data.draw(st.lists(st.sampled_from(pages), unique=True, max_size=12))

    @rule(data=st.data(), n=st.integers(0, 12), follow=st.booleans())
    def take(self, data: st.DataObject, n: int, follow: bool) -> None:
        after = data.draw(st.sampled_from(self.taken)) if follow and self.taken else None
        if n > len(self.free):
            with pytest.raises(OutOfPages, match=f"{n} pages wanted, {len(self.free)} of"):
                self.allocator.take(n, after)
            return
        free = lengths_by_start(self.free)
        pages = self.allocator.take(n, after)
        assert len(pages) == n == len(set(pages))
        assert set(pages) <= self.free, "a page that was not free was handed out"
        self.check_runs(pages, free, -1 if after is None else after + 1)
        self.free.difference_update(pages)
        self.taken += pages
        for page in pages:
            assert self.allocator.generation(page) > self.generations[page]
            self.generations[page] = self.allocator.generation(page)

    def check_runs(self, pages: list[int], free: dict[int, int], own: int) -> None:
        """The free run at `own`, if there is one, is what the sequence would grow into."""
        n = len(pages)
        behind = free.get(own, 0)
        fitting = [length for length in free.values() if length >= n]
        if n == 0:
            return
        if behind >= n or (behind and not fitting):
            assert pages[0] == own, "the sequence's own run was not continued"
        if behind >= n:
            assert len(runs(pages)) == 1
        elif fitting:
            assert len(runs(pages)) == 1
            assert free[pages[0]] == min(fitting), "a longer run was broken than had to be"
        else:
            rest = [length for start, length in free.items() if start != own]
            assert len(runs(sorted(pages))) <= bool(behind) + fewest_runs(rest, n - behind)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        pages = self.some(data, self.taken)
        self.allocator.give(pages)
        self.taken = [page for page in self.taken if page not in pages]
        self.free.update(pages)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def fence(self, data: st.DataObject) -> None:
        pages = self.some(data, self.taken)
        self.allocator.fence(pages)
        self.taken = [page for page in self.taken if page not in pages]
        self.fenced += pages

    @precondition(lambda self: self.fenced)
    @rule(data=st.data())
    def release_fence(self, data: st.DataObject) -> None:
        pages = self.some(data, self.fenced)
        self.allocator.release_fence(pages)
        self.fenced = [page for page in self.fenced if page not in pages]
        self.free.update(pages)

    @rule(data=st.data())
    def misuse(self, data: st.DataObject) -> None:
        """Whatever is not the caller's to give is refused, and nothing changes."""
        page = data.draw(st.integers(-1, self.allocator.total))
        sound = self.taken[:3]
        if page not in self.taken:
            for call in (self.allocator.give, self.allocator.fence):
                with pytest.raises(AssertionError):
                    call([*sound, page])
        if page not in self.fenced:
            with pytest.raises(AssertionError):
                self.allocator.release_fence([*self.fenced[:3], page])

    @invariant()
    def agrees(self) -> None:
        allocator = self.allocator
        allocator.check_integrity()
        assert allocator.free == len(self.free)
        assert allocator.fenced == len(self.fenced)
        assert allocator.free + allocator.fenced + len(self.taken) == allocator.total - 1, "a page was lost"
        assert allocator.largest_run == max(lengths_by_start(self.free).values(), default=0)
        for page, generation in enumerate(self.generations):
            assert allocator.generation(page) == generation
            assert allocator.belongs(page, generation) == (page in self.taken)
            assert not allocator.belongs(page, generation - 1)


def test_every_history_keeps_every_page() -> None:
    run_state_machine_as_test(Allocator, settings=settings(STEADY, max_examples=180, stateful_step_count=50))


def test_growth_stays_in_one_run_and_a_freed_hole_is_filled_first() -> None:
    allocator = PageAllocator(101)
    first = allocator.take(4)
    second = allocator.take(4)
    assert (first, second) == ([1, 2, 3, 4], [5, 6, 7, 8])
    assert allocator.take(3, after=8) == [9, 10, 11], "what is behind page 8 is free"
    allocator.give(first)
    assert allocator.take(2) == [1, 2], "the hole of 4 fits better than the 89 behind page 11"
    assert allocator.take(1, after=2) == [3]
    assert allocator.take(2, after=11) == [12, 13]
    assert repr(allocator) == "<PageAllocator 88 of 100 free in 2 runs, longest 87, 0 fenced>"


def test_a_run_that_must_be_split_goes_on_behind_the_sequence_first() -> None:
    allocator = PageAllocator(21)
    pages = allocator.take(20)
    allocator.give([2, 3, 8, 9, 10, 15])
    assert allocator.take(5, after=1) == [2, 3, 8, 9, 10]
    allocator.give(pages[1:3] + pages[7:10])
    assert allocator.take(6) == [8, 9, 10, 2, 3, 15]


def test_a_fenced_page_is_handed_out_only_after_its_release() -> None:
    allocator = PageAllocator(5)
    pages = allocator.take(4)
    stamp = allocator.generation(2)
    assert allocator.belongs(2, stamp)
    allocator.fence([2, 3])
    assert not allocator.belongs(2, stamp)
    allocator.give([1, 4])
    with pytest.raises(OutOfPages, match="3 pages wanted, 2 of 4 are free \\(2 fenced\\)"):
        allocator.take(3)
    with pytest.raises(AssertionError, match="taken"):
        allocator.give([2])
    allocator.release_fence([3, 2])
    assert sorted(allocator.take(4)) == pages
    assert allocator.generation(2) > stamp
    assert not allocator.belongs(2, stamp)


def test_a_page_given_twice_is_refused_and_nothing_is_given() -> None:
    allocator = PageAllocator(9)
    allocator.take(6)
    allocator.give([5])
    for wrong in ([5], [0], [9], [-1], [7], [2, 2], [1, 2, 3, 2], [3, 4, 5]):
        with pytest.raises(AssertionError):
            allocator.give(wrong)
    assert allocator.free == 3
    allocator.check_integrity()


def test_a_million_pages_cost_no_more_than_their_runs() -> None:
    """Every free page a run of its own, 100,000 of them: a step over all runs a call would take minutes."""
    allocator = PageAllocator(1_000_000)
    everything = allocator.take(allocator.free)
    allocator.give(everything[::2][:100_000])
    for page in allocator.take(20_000):
        allocator.give([page])
    for _ in range(20_000):
        allocator.take(1)
    assert allocator.free == 80_000
    allocator.give(allocator.take(50_000))
    allocator.check_integrity()


def test_runs_needs_neighbours_on_both_sides() -> None:
    assert runs([]) == []
    assert runs([7]) == [(7, 7, 1)]
    assert runs([3, 4, 5, 9, 8]) == [(3, 3, 3), (9, 9, 1), (8, 8, 1)]
    assert runs([3, 4, 5, 6], [10, 11, 20, 21]) == [(3, 10, 2), (5, 20, 2)]
    with pytest.raises(ValueError):
        runs([1, 2], [1])


@settings(STEADY, max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=30))
def test_runs_are_complete_and_maximal(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    found = runs(ours, theirs)
    assert [(a + i, b + i) for a, b, count in found for i in range(count)] == pairs
    for (a, b, count), (a2, b2, _) in pairwise(found):
        assert (a + count, b + count) != (a2, b2), "two runs could have been one"
