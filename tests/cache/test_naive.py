"""No reuse, behind the contract of a cache that has some."""

from __future__ import annotations

from baton.cache import NaiveCache


def test_it_takes_nothing_and_finds_nothing() -> None:
    cache = NaiveCache()
    assert not cache.reuses
    prefix = cache.match([b"a"]).prefix
    cache.lock(prefix)
    inserted = cache.insert(prefix, [b"a", b"ab"], [1, 2])
    cache.unlock(prefix)
    assert inserted.taken == (False, False)
    assert inserted.prefix.depth == 0
    assert cache.match([b"a", b"ab"]).pages == ()
    assert (cache.pages, cache.evictable, cache.evict(3)) == (0, 0, [])
    assert cache.events() == []
    assert cache.snapshot() == []
    cache.check_integrity()
