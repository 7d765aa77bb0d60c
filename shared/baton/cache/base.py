"""The prefix cache's contract: which pages of the pool hold which prefix.

A page's identity (`baton.tokens.identity`) is chained, so the identity of a page names the whole
prefix that ends in it. A cache therefore maps identities to pages and remembers each one's parent.

Ownership: a page belongs to exactly one of the allocator (free), a sequence, the cache, or a fence.
`insert` passes ownership of the pages it takes from the sequence to the cache; `evict` passes it to
the caller, who gives the page back to the allocator. Nothing here touches tensors or does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """A page entered the cache."""

    identity: bytes
    parent: bytes
    """Identity of the page before it; empty for the first page of a prompt."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """A page left the cache."""

    identity: bytes


CacheEvent = Stored | Evicted


class Prefix(Protocol):
    """A position in the cache: a cached prefix of zero or more pages. Opaque to callers."""

    @property
    def depth(self) -> int:
        """How many pages the prefix has."""
        ...


@dataclass(frozen=True, slots=True)
class Match:
    """The longest cached prefix of a chain of identities."""

    prefix: Prefix
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of the pages that were offered."""

    prefix: Prefix
    """The whole chain's position; not locked by insert."""
    taken: tuple[bool, ...]
    """For each page offered: True when the cache owns it now; False when it held that identity already
    (in another page, or this very one), so the caller still owns what it offered, unless it came from
    the cache."""


class PrefixCache(Protocol):
    """One engine's cache. Not thread-safe: the scheduler owns it."""

    @property
    def reuses(self) -> bool:
        """Whether what is inserted can ever be matched again."""
        ...

    @property
    def evictable(self) -> int:
        """Pages that `evict` could free now: cached and under no lock. O(1)."""
        ...

    @property
    def pages(self) -> int:
        """Pages the cache owns, locked or not. O(1)."""
        ...

    def match(self, identities: Sequence[bytes]) -> Match:
        """The longest cached prefix of the chain; marks it used. Locks nothing."""
        ...

    def lock(self, prefix: Prefix) -> None:
        """No page of this prefix may be evicted until as many unlocks have come."""
        ...

    def unlock(self, prefix: Prefix) -> None: ...

    def insert(self, after: Prefix, identities: Sequence[bytes], pages: Sequence[int]) -> Inserted:
        """Add complete pages that follow `after`. Pages must be finished: no launched step writes them."""
        ...

    def evict(self, count: int) -> list[int]:
        """Free at least `count` unlocked pages if there are as many, leaves first; the caller owns them."""
        ...

    def events(self) -> list[CacheEvent]:
        """The net change since the last call: evictions leaves first, then stored pages parents first.

        Replayed in this order they give the cache's content. A page that came and went in between is
        not mentioned, so what waits here never outgrows the pool, even when nobody asks.
        """
        ...

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """(identity, parent's identity) of every page, parents first, for whoever missed events.

        Pending events are in it already: whoever publishes it calls `events` right before, and drops them.
        """
        ...

    def check_integrity(self) -> None:
        """Raise AssertionError when an invariant is broken. O(pages); for idle times and tests."""
        ...
