"""Which pages of the pool are free, and runs of neighbours, because neighbours travel as one descriptor.

The scheduler owns the one `PageAllocator` of its engine; every rank's pool has the same page numbers.
Page 0 is scratch (padding writes land there) and is never handed out. A page that a remote writer may
still reach is fenced: nobody owns it until the writer is known to be done, so no write of an old
hand-over can land in a page with a new owner. Nothing here touches memory, tensors or a clock.

Cost: O(log of the number of different run lengths) a run, whatever the size of the pool.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence

from baton.core.errors import OutOfPages

_FREE, _TAKEN, _FENCED, _NEVER = range(4)
_STATES = ("free", "taken", "fenced", "never handed out")


def runs(pages: Sequence[int], other_pages: Sequence[int] | None = None) -> list[tuple[int, int, int]]:
    """Split pages into (start, other start, count), each as long as both lists go on page by page.

    The order of the lists is kept. Without `other_pages` the list is paired with itself.
    """
    found: list[tuple[int, int, int]] = []
    other_pages = pages if other_pages is None else other_pages
    start = other_start = count = 0
    end = other_end = -1
    for page, other in zip(pages, other_pages, strict=True):
        if page == end and other == other_end:
            count += 1
        else:
            if count:
                found.append((start, other_start, count))
            start, other_start, count = page, other, 1
        end, other_end = page + 1, other + 1
    if count:
        found.append((start, other_start, count))
    return found


class PageAllocator:
    """Hands out the pages 1 … total - 1, in runs of neighbours where it can. Not thread-safe."""

    __slots__ = (
        "_fenced",
        "_free",
        "_generations",
        "_lengths",
        "_spans",
        "_starts",
        "_states",
        "_takes",
        "_total",
    )

    def __init__(self, total: int) -> None:
        assert total >= 1, f"a pool of {total} pages has no scratch page"
        self._total = total
        # One byte a page, and a sentinel behind the last so that every page has two neighbours.
        self._states = bytearray(total + 1)
        self._states[0] = self._states[total] = _NEVER
        self._generations = array("Q", bytes(8 * total))
        self._takes = 0
        self._free = total - 1
        self._fenced = 0
        # Of a free run, its first and its last page hold its length; entries inside it mean nothing.
        self._spans = array("I", bytes(4 * total))
        # Length → the first pages of the runs that long, in dicts rather than sets: the same history
        # gives the same pages everywhere. And the lengths that occur, ascending.
        self._starts: dict[int, dict[int, None]] = {}
        self._lengths: list[int] = []
        if total > 1:
            self._note(1, total - 1)

    @property
    def total(self) -> int:
        """Pages of the pool, the scratch page included."""
        return self._total

    @property
    def free(self) -> int:
        return self._free

    @property
    def fenced(self) -> int:
        """Pages in quarantine: neither free nor anybody's."""
        return self._fenced

    @property
    def largest_run(self) -> int:
        return self._lengths[-1] if self._lengths else 0

    def take(self, n: int, after: int | None = None) -> list[int]:
        """Hand out n pages, all or none (`OutOfPages`).

        One run when any is long enough: the one right behind page `after`, else the shortest that
        fits. Several otherwise: what is behind `after`, then the longest ones.
        """
        assert n >= 0, f"{n} pages asked for"
        if n > self._free:
            raise OutOfPages(
                f"{n} pages wanted, {self._free} of {self._total - 1} are free ({self._fenced} fenced)"
            )
        if n == 0:
            return []
        self._takes += 1
        pages: list[int] = []
        if after is not None and (behind := self._behind(after)) and (behind >= n or self._lengths[-1] < n):
            self._forget(after + 1, behind)
            pages = self._cut(after + 1, behind, n)
        while (left := n - len(pages)) > 0:
            fit = bisect_left(self._lengths, left)
            length = self._lengths[fit if fit < len(self._lengths) else -1]
            pages += self._cut(self._latest(length), length, left)
        return pages

    def give(self, pages: Sequence[int]) -> None:
        """Take back pages that were handed out; each must be taken and not fenced."""
        for start, count in self._claimed(pages, _TAKEN):
            self._release(start, count)

    def fence(self, pages: Sequence[int]) -> None:
        """Move taken pages into quarantine: from now on they are nobody's."""
        for start, count in self._claimed(pages, _TAKEN):
            self._states[start : start + count] = bytes((_FENCED,)) * count
            self._fenced += count

    def release_fence(self, pages: Sequence[int]) -> None:
        """Free fenced pages: no write that was under way can reach them any more."""
        for start, count in self._claimed(pages, _FENCED):
            self._release(start, count)
            self._fenced -= count

    def generation(self, page: int) -> int:
        """Grows each time the page is handed out; 0 before the first time."""
        return self._generations[page]

    def belongs(self, page: int, generation: int) -> bool:
        """Whether the page has been neither given back nor fenced since it had this generation."""
        return self._states[page] == _TAKEN and self._generations[page] == generation

    def check_integrity(self) -> None:
        """Raise AssertionError when an invariant is broken. O(total); for idle times and tests."""
        states, spans = self._states, self._spans
        assert states[0] == states[self._total] == _NEVER and states.count(_NEVER) == 2
        assert states.count(_FREE) == self._free
        assert states.count(_FENCED) == self._fenced
        assert self._lengths == sorted(self._starts), "lengths and runs disagree"
        listed = 0
        for length, starts in self._starts.items():
            assert starts, f"no run is {length} long"
            for start in starts:
                end = start + length
                assert states.count(_FREE, start, end) == length, f"the run at {start} is not all free"
                assert states[start - 1] != _FREE != states[end], f"the run at {start} touches another"
                assert spans[start] == spans[end - 1] == length, f"the run at {start} has lost its length"
                listed += length
        assert listed == self._free, f"{listed} pages in runs, {self._free} free"
        assert max(self._generations) == self._takes

    def __repr__(self) -> str:
        count = sum(map(len, self._starts.values()))
        return (
            f"<PageAllocator {self._free} of {self._total - 1} free in {count} runs, "
            f"longest {self.largest_run}, {self._fenced} fenced>"
        )

    def _claimed(self, pages: Sequence[int], state: int) -> list[tuple[int, int]]:
        """The pages as ascending (start, count), once all are known to be in this state, each named once."""
        ordered = sorted(pages)
        if not ordered:
            return []
        assert ordered[0] >= 0 and ordered[-1] < self._total, f"not all of {ordered[0]} … {ordered[-1]} exist"
        states = self._states
        claimed: list[tuple[int, int]] = []
        end = 0
        for start, _, count in runs(ordered):
            assert start >= end, f"page {start} is named twice"
            end = start + count
            right = 1 if count == 1 and states[start] == state else states.count(state, start, end)
            assert right == count, f"not all of the pages {start} … {end - 1} are {_STATES[state]}"
            claimed.append((start, count))
        return claimed

    def _behind(self, page: int) -> int:
        """Length of the free run that starts right behind this page."""
        if self._states[page] == _FREE or self._states[page + 1] != _FREE:
            return 0
        return self._spans[page + 1]

    def _cut(self, start: int, length: int, n: int) -> list[int]:
        """Take the first n pages, or all, of the free run that starts here and is listed no more."""
        if length > n:
            self._note(start + n, length - n)
        else:
            n = length
        self._free -= n
        if n == 1:
            self._states[start] = _TAKEN
            self._generations[start] = self._takes
            return [start]
        end = start + n
        self._states[start:end] = bytes((_TAKEN,)) * n
        self._generations[start:end] = array("Q", (self._takes,)) * n
        return list(range(start, end))

    def _release(self, start: int, count: int) -> None:
        """Make these pages free and join them with the free runs on both sides."""
        states, spans = self._states, self._spans
        if count == 1:
            states[start] = _FREE
        else:
            states[start : start + count] = bytes(count)
        self._free += count
        if states[start + count] == _FREE:
            behind = spans[start + count]
            self._forget(start + count, behind)
            count += behind
        if states[start - 1] == _FREE:
            before = spans[start - 1]
            start -= before
            self._forget(start, before)
            count += before
        self._note(start, count)

    def _note(self, start: int, length: int) -> None:
        """List a free run."""
        self._spans[start] = self._spans[start + length - 1] = length
        starts = self._starts.get(length)
        if starts is None:
            self._starts[length] = {start: None}
            insort(self._lengths, length)
        else:
            starts[start] = None

    def _forget(self, start: int, length: int) -> None:
        """List a free run no more."""
        starts = self._starts[length]
        del starts[start]
        if not starts:
            self._forget_length(length)

    def _latest(self, length: int) -> int:
        """List the youngest run of this length no more, and return its first page.

        `popitem`, because looking for a dict's last key passes every key deleted behind it.
        """
        starts = self._starts[length]
        start, _ = starts.popitem()
        if not starts:
            self._forget_length(length)
        return start

    def _forget_length(self, length: int) -> None:
        del self._starts[length]
        del self._lengths[bisect_left(self._lengths, length)]
