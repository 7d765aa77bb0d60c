"""`RadixCache`: finished pages kept for the next prompt that starts alike.

One entry a page, found by its identity. Identities are chained, so a flat dict of entries that know
their parents is a prefix tree, and a page's place in it needs no comparing of tokens. The scheduler
owns the cache and is its only caller; pages come in by `insert` and leave by `evict`, never else.

Two things that a tree would keep on every page of a path are kept on its end alone:
- A lock counts on its own entry, and an entry that is held (locked, or above one that is held) counts
  once on its parent. So locking stops at the first entry that was held anyway.
- A use counts on its own entry, and an evicted entry passes its uses on to its parent. Only leaves
  are evicted, so an entry that can be evicted has heard of every use of the pages that were below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush, heapreplace

from baton.cache.base import CacheEvent, Evicted, Inserted, Match, Prefix, Stored


class Entry:
    """A cached page, and the prefix that ends in it. The root is the empty prefix and has no page."""

    __slots__ = ("children", "depth", "held", "identity", "locks", "page", "parent", "queued", "used", "uses")

    def __init__(self, identity: bytes, page: int, parent: Entry | None, used: int) -> None:
        self.identity = identity
        self.page = page
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children = 0
        self.locks = 0
        """Locks taken on this very prefix."""
        self.held = 0
        """Children that are locked or hold others."""
        self.used = used
        """Number of the last operation that came here."""
        self.uses = 0
        """How many matches ended here, or below in pages evicted since."""
        self.queued = False
        """Whether it waits in the eviction queue, exactly once if so."""

    def __repr__(self) -> str:
        return f"<Entry {self.identity.hex()[:8]} depth {self.depth} page {self.page}>"


Order = Callable[[Entry], tuple[int, int]]
"""What is evicted first: the leaf with the least. An entry's order only grows while it is cached."""

POLICIES: dict[str, Order] = {
    "lru": lambda entry: (entry.used, 0),
    "lfu": lambda entry: (entry.uses, entry.used),
}


class RadixCache:
    """A `PrefixCache` that reuses every page it has been given."""

    def __init__(self, policy: str = "lru") -> None:
        self._policy = policy
        self._order = POLICIES[policy]
        self._root = Entry(b"", 0, None, 0)
        # In order of insertion, so parents come before their children.
        self._entries: dict[bytes, Entry] = {}
        self._evictable = 0
        self._clock = 0
        # Every evictable leaf is in it, under its order now or an older, smaller one. Others may be.
        self._queue: list[tuple[tuple[int, int], int, Entry]] = []
        self._turns = 0
        # What differs from the content at the last `events`: bounded even when nobody ever asks.
        self._stored: dict[bytes, bytes] = {}
        self._evicted: dict[bytes, None] = {}

    @property
    def reuses(self) -> bool:
        return True

    @property
    def evictable(self) -> int:
        return self._evictable

    @property
    def pages(self) -> int:
        return len(self._entries)

    def match(self, identities: Sequence[bytes]) -> Match:
        find = self._entries.get
        entry = self._root
        pages: list[int] = []
        for identity in identities:
            found = find(identity)
            if found is None or found.parent is not entry:
                break
            entry = found
            pages.append(entry.page)
        self._clock += 1
        entry.used = self._clock
        entry.uses += 1
        return Match(entry, tuple(pages))

    def lock(self, prefix: Prefix) -> None:
        entry = self._own(prefix)
        was_held = entry.locks or entry.held
        entry.locks += 1
        if was_held:
            return
        while entry.parent is not None:
            self._evictable -= 1
            entry = entry.parent
            entry.held += 1
            if entry.locks or entry.held > 1:
                return

    def unlock(self, prefix: Prefix) -> None:
        entry = self._own(prefix)
        assert entry.locks > 0, f"{entry} is not locked"
        entry.locks -= 1
        self._enqueue(entry)
        while entry.parent is not None and not entry.locks and not entry.held:
            self._evictable += 1
            entry = entry.parent
            entry.held -= 1

    def insert(self, after: Prefix, identities: Sequence[bytes], pages: Sequence[int]) -> Inserted:
        assert len(identities) == len(pages), f"{len(identities)} identities for {len(pages)} pages"
        entry = self._own(after)
        assert entry.parent is None or entry.locks or entry.held, f"{entry} is not locked"
        self._clock += 1
        taken: list[bool] = []
        for identity, page in zip(identities, pages, strict=True):
            found = self._entries.get(identity)
            taken.append(found is None)
            if found is None:
                found = self._add(identity, page, entry)
            assert found.parent is entry, f"{found} does not follow {entry}: not a chain"
            entry = found
        entry.used = self._clock
        self._enqueue(entry)
        return Inserted(entry, tuple(taken))

    def evict(self, count: int) -> list[int]:
        pages: list[int] = []
        queue = self._queue
        while queue and len(pages) < count:
            then, turn, entry = queue[0]
            if entry.children or entry.locks:
                heappop(queue)
                entry.queued = False
            elif (now := self._order(entry)) > then:
                heapreplace(queue, (now, turn, entry))
            else:
                heappop(queue)
                entry.queued = False
                self._evict_upwards(entry, count, pages)
        return pages

    def events(self) -> list[CacheEvent]:
        """The net change since the last call: evictions leaves first, then stored pages parents first.

        A page that came and went in between, or the other way round, is not mentioned.
        """
        changes: list[CacheEvent] = [Evicted(identity) for identity in self._evicted]
        changes += [Stored(identity, parent) for identity, parent in self._stored.items()]
        self._evicted, self._stored = {}, {}
        return changes

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """(identity, parent's identity) of every page, parents first.

        Changes that `events` has yet to tell are in it already: call `events` first, and drop them.
        """
        entries = self._entries.values()
        return [(entry.identity, entry.parent.identity) for entry in entries if entry.parent is not None]

    def check_integrity(self) -> None:
        children: dict[Entry, int] = {}
        held: dict[Entry, int] = {}
        for identity, entry in self._entries.items():
            parent = entry.parent
            assert entry.identity == identity and parent is not None
            assert self._own(parent) is parent
            assert entry.depth == parent.depth + 1
            children[parent] = children.get(parent, 0) + 1
            held[parent] = held.get(parent, 0) + (entry.locks > 0 or entry.held > 0)
        free = 0
        for entry in (self._root, *self._entries.values()):
            assert entry.children == children.get(entry, 0), f"{entry} has lost count of its children"
            assert entry.held == held.get(entry, 0), f"{entry} has lost count of its locks"
            idle = entry is not self._root and not entry.locks and not entry.held
            assert entry.queued or not idle or entry.children, f"{entry} can be evicted and is not queued"
            free += idle
        assert free == self._evictable, f"{free} pages are evictable, {self._evictable} counted"
        owned = {entry.page for entry in self._entries.values()}
        assert len(owned) == len(self._entries), "a page is cached twice"
        assert self._stored.keys() <= self._entries.keys() and self._evicted.keys().isdisjoint(self._entries)
        queued = [entry for _, _, entry in self._queue]
        assert len(set(queued)) == len(queued) and all(entry.queued for entry in queued)

    def __repr__(self) -> str:
        return f"<RadixCache {self._policy}, {len(self._entries)} pages, {self._evictable} evictable>"

    def _own(self, prefix: Prefix) -> Entry:
        """The entry behind a prefix, which must be one of this cache and still in it."""
        assert isinstance(prefix, Entry)
        assert prefix is self._root or self._entries.get(prefix.identity) is prefix, f"{prefix} was evicted"
        return prefix

    def _add(self, identity: bytes, page: int, parent: Entry) -> Entry:
        entry = self._entries[identity] = Entry(identity, page, parent, self._clock)
        parent.children += 1
        self._evictable += 1
        if identity in self._evicted:
            del self._evicted[identity]
        else:
            self._stored[identity] = parent.identity
        return entry

    def _enqueue(self, entry: Entry) -> None:
        """Let an evictable leaf wait for its turn; one that has changed by then is passed over."""
        if not (entry.queued or entry.children or entry.locks or entry.parent is None):
            entry.queued = True
            self._turns += 1
            heappush(self._queue, (self._order(entry), self._turns, entry))

    def _evict_upwards(self, entry: Entry, count: int, pages: list[int]) -> None:
        """Evict this leaf, then its parents for as long as each is the next in the queue's order."""
        while True:
            parent = entry.parent
            assert parent is not None
            self._remove(entry, parent)
            pages.append(entry.page)
            if parent.children or parent.locks or parent.queued or parent.parent is None:
                return
            if len(pages) >= count or (self._queue and self._queue[0][0] < self._order(parent)):
                self._enqueue(parent)
                return
            entry = parent

    def _remove(self, entry: Entry, parent: Entry) -> None:
        del self._entries[entry.identity]
        self._evictable -= 1
        parent.children -= 1
        parent.used = max(parent.used, entry.used)
        parent.uses += entry.uses
        if entry.identity in self._stored:
            del self._stored[entry.identity]
        else:
            self._evicted[entry.identity] = None
