"""Which sequence holds which pages: the allocator and the prefix cache seen from the scheduler.

The one place where pages change hands on behalf of sequences, so that a page is never lost or owned
twice. Torch-free and synchronous; page numbers are all it knows of the pool.
"""

from __future__ import annotations

from baton.cache.base import PrefixCache
from baton.cache.pages import PageAllocator
from baton.engine.sequence import Sequence


class Holdings:
    def __init__(self, allocator: PageAllocator, cache: PrefixCache, page_size: int) -> None:
        self.allocator = allocator
        self.cache = cache
        self.page_size = page_size
        self.aside = 0
        """Pages that transfers fill and no sequence owns."""
        self.loans = 0
        """Prefixes of the cache that others read, so that they cannot be evicted."""

    @property
    def available(self) -> int:
        """Pages that could be taken now, after evicting."""
        return self.allocator.free + self.cache.evictable

    @property
    def awaits_pages(self) -> bool:
        """Whether transfers keep pages that can be taken once they have ended."""
        return bool(self.allocator.fenced or self.aside or self.loans)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def adopt(self, sequence: Sequence) -> None:
        """Lock the longest cached prefix of a sequence that holds nothing, leaving a token to compute."""
        assert not sequence.pages and sequence.prefix is None
        reusable = (len(sequence.tokens) - 1) // self.page_size
        if sequence.unscored:
            reusable = 0  # every position of the prompt must be computed to be scored
        match = self.cache.match(sequence.identities_of(reusable, self.page_size))
        self.cache.lock(match.prefix)
        sequence.prefix = match.prefix
        sequence.pages = list(match.pages)
        sequence.owned = [False] * len(match.pages)
        sequence.stored = len(match.pages)
        sequence.computed = sequence.settled = len(match.pages) * self.page_size

    def grow(self, sequence: Sequence, count: int) -> list[int]:
        """Give the sequence `count` more pages, evicting as needed; raises OutOfPages."""
        if count > self.allocator.free:
            self.make_room(count)
        pages = self.allocator.take(count, after=sequence.pages[-1] if sequence.pages else None)
        sequence.pages += pages
        sequence.owned += [True] * count
        return pages

    def make_room(self, count: int) -> bool:
        """Evict until `count` pages are free; whether they are."""
        short = count - self.allocator.free
        if short > 0 and self.cache.evictable:
            self.allocator.give(self.cache.evict(short))
        return self.allocator.free >= count

    def set_aside(self, count: int) -> list[int]:
        """Take pages that no sequence owns; room must have been made."""
        self.aside += count
        return self.allocator.take(count)

    def take_in(self, pages: list[int], kept: list[int]) -> None:
        """Pages that were set aside have their owner: the cache those `kept`, the allocator the others."""
        self.aside -= len(pages)
        cached = set(kept)
        self.allocator.give([page for page in pages if page not in cached])

    def store(self, sequence: Sequence) -> None:
        """Offer the sequence's newly completed pages to the cache.

        Only settled pages: a reader on another stream, or another pod, may use them at once.
        """
        complete = sequence.settled // self.page_size
        if complete <= sequence.stored or sequence.prefix is None:
            return
        first = sequence.stored
        identities = sequence.identities_of(complete, self.page_size)[first:]
        inserted = self.cache.insert(sequence.prefix, identities, sequence.pages[first:complete])
        self.cache.lock(inserted.prefix)
        self.cache.unlock(sequence.prefix)
        sequence.prefix = inserted.prefix
        for index, taken in enumerate(inserted.taken, start=first):
            if taken:
                sequence.owned[index] = False
        sequence.stored = complete

    def doubled(self, sequence: Sequence) -> bool:
        """Whether it owns pages whose like the cache has, and keeps those locked as well."""
        return self.cache.reuses and any(sequence.owned[: sequence.stored])

    def release(self, sequence: Sequence) -> None:
        """Take everything back from a sequence that no launched step touches."""
        assert sequence.inflight == 0, sequence
        self.allocator.give([page for page, own in zip(sequence.pages, sequence.owned, strict=True) if own])
        if sequence.prefix is not None:
            self.cache.unlock(sequence.prefix)
        sequence.prefix = None
        sequence.pages = []
        sequence.owned = []
        sequence.stored = sequence.computed = sequence.settled = 0

    def check_integrity(self, holders: list[Sequence]) -> None:
        """Every page is free, fenced, the cache's or exactly one sequence's. O(pages)."""
        self.allocator.check_integrity()
        self.cache.check_integrity()
        owned = [p for s in holders for p, own in zip(s.pages, s.owned, strict=True) if own]
        assert len(owned) == len(set(owned)), "a page is owned by two sequences"
        total = self.allocator.free + self.allocator.fenced + self.cache.pages + len(owned) + self.aside
        assert total == self.allocator.total - 1, f"{self.allocator.total - 1 - total} pages lost: {self}"

    def __repr__(self) -> str:
        return f"<Holdings {self.allocator!r} {self.cache!r}>"
