"""Which pages of the KV pool are free, and which hold a prefix worth keeping.

Torch-free, so that the scheduler's decisions can be made and tested without it; the tensor behind
the pages is made by `baton.cache.pool`, which is imported by that name and imports torch.
"""

from __future__ import annotations

from collections.abc import Callable

from baton.cache.base import CacheEvent, Evicted, Inserted, Match, Prefix, PrefixCache, Stored
from baton.cache.naive import NaiveCache
from baton.cache.pages import PageAllocator, runs
from baton.cache.radix import POLICIES, RadixCache
from baton.core.errors import InvalidSetting

__all__ = [
    "CACHES",
    "POLICIES",
    "CacheEvent",
    "Evicted",
    "Inserted",
    "Match",
    "NaiveCache",
    "PageAllocator",
    "Prefix",
    "PrefixCache",
    "RadixCache",
    "Stored",
    "make_cache",
    "runs",
]

CACHES: dict[str, Callable[[str], PrefixCache]] = {
    "naive": lambda policy: NaiveCache(),
    "radix": RadixCache,
}


def make_cache(name: str = "radix", *, policy: str = "lru") -> PrefixCache:
    """The cache and the eviction policy that the settings `cache` and `eviction` name."""
    for setting, value, known in (("cache", name, CACHES), ("eviction", policy, POLICIES)):
        if value not in known:
            raise InvalidSetting(setting, f"{value!r} is none of {', '.join(sorted(known))}")
    return CACHES[name](policy)
