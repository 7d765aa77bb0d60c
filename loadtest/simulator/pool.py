"""A pod's pages: the engine's own prefix cache, and counts of what belongs to nobody or to one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.cache.base import Prefix
from baton.cache.radix import RadixCache


@dataclass(slots=True)
class Holding:
    """What one request holds of a pool."""

    prefix: Prefix
    pages: int
    """Of its own, besides those of the cache that it has locked."""

    @property
    def cached(self) -> int:
        return self.prefix.depth


class Pool:
    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.cache = RadixCache()
        self._own = 0

    @property
    def free(self) -> int:
        return self.pages - self.cache.pages - self._own

    def cached(self, identities: Sequence[bytes]) -> int:
        return self.cache.match(identities).prefix.depth

    def hold(self, identities: Sequence[bytes], pages: int) -> Holding | None:
        """Lock what is cached of a prompt and take the rest of `pages`; None when there is no room."""
        prefix = self.cache.match(identities).prefix
        self.cache.lock(prefix)
        own = pages - prefix.depth
        lacking = own - self.free
        if lacking > 0 and lacking <= self.cache.evictable:
            lacking -= len(self.cache.evict(lacking))
        if lacking > 0:
            self.cache.unlock(prefix)
            return None
        self._own += own
        return Holding(prefix, own)

    def store(self, holding: Holding, identities: Sequence[bytes]) -> None:
        """The pages of a chain up to here are computed: the cache takes those that it lacks."""
        more = identities[holding.prefix.depth :]
        if not more:
            return
        inserted = self.cache.insert(holding.prefix, more, [0] * len(more))
        self.cache.lock(inserted.prefix)
        self.cache.unlock(holding.prefix)
        holding.prefix = inserted.prefix
        taken = sum(inserted.taken)
        holding.pages -= taken
        self._own -= taken

    def release(self, holding: Holding) -> None:
        self.cache.unlock(holding.prefix)
        self._own -= holding.pages
        holding.pages = 0

    def take(self, identities: Sequence[bytes]) -> None:
        """Pages that were read out of another pool: the cache's from now on, if there is room for them."""
        holding = self.hold(identities, len(identities))
        if holding is not None:
            self.store(holding, identities)
            self.release(holding)
