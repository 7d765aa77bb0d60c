"""`NaiveCache`: no reuse. Every prompt is computed in full and every finished page goes back.

What a benchmark or a differential test compares `RadixCache` with, behind the same contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.cache.base import CacheEvent, Inserted, Match, Prefix


@dataclass(frozen=True, slots=True)
class _Nothing:
    """The empty prefix, the only one there is."""

    depth: int = 0


class NaiveCache:
    """A `PrefixCache` that never holds a page."""

    def __init__(self) -> None:
        self._match = Match(_Nothing(), ())

    @property
    def reuses(self) -> bool:
        return False

    @property
    def evictable(self) -> int:
        return 0

    @property
    def pages(self) -> int:
        return 0

    def match(self, identities: Sequence[bytes]) -> Match:
        return self._match

    def lock(self, prefix: Prefix) -> None:
        assert prefix is self._match.prefix

    def unlock(self, prefix: Prefix) -> None:
        assert prefix is self._match.prefix

    def insert(self, after: Prefix, identities: Sequence[bytes], pages: Sequence[int]) -> Inserted:
        assert after is self._match.prefix
        assert len(identities) == len(pages), f"{len(identities)} identities for {len(pages)} pages"
        return Inserted(after, (False,) * len(pages))

    def evict(self, count: int) -> list[int]:
        return []

    def events(self) -> list[CacheEvent]:
        return []

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        return []

    def check_integrity(self) -> None:
        pass

    def __repr__(self) -> str:
        return "<NaiveCache>"
