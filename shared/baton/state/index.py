"""Which worker holds which pages: the router's mirror of every engine's prefix cache.

The event reader writes it and placement reads it, on one event loop; nothing here waits. Each worker has a
dict of the identities it holds. Measured against one dict from identity to a bit mask of workers, and
against sets, with a million pages over 32 workers: a lookup gallops through 2,000 pages in a quarter of the
time, forgetting a worker drops one dict instead of walking the index, nothing is shared that could
leak, and the garbage collector skips dicts of bytes where it walks sets.

An identity names the whole prefix that ends in it, and caches store parents first and evict leaves first.
So who holds a page holds all before it, and the end of a prefix can be searched for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from baton.tokens.identity import IDENTITY_BYTES

_IDENTITY = np.dtype((np.void, IDENTITY_BYTES))


class PrefixIndex:
    """Identities are whole, so it is as exact as the events."""

    def __init__(self) -> None:
        self._held: dict[str, dict[bytes, None]] = {}

    def __repr__(self) -> str:
        return f"PrefixIndex({len(self)} pages over {len(self._held)} workers)"

    def __len__(self) -> int:
        """Pages, those held by several workers counted as often."""
        return sum(map(len, self._held.values()))

    @property
    def pages(self) -> Mapping[str, int]:
        """How many pages each worker holds."""
        return {worker: len(held) for worker, held in self._held.items()}

    def lookup(self, identities: Sequence[bytes]) -> dict[str, int]:
        """For each worker, how many leading pages of the chain it holds."""
        return {worker: _depth(held, identities) for worker, held in self._held.items()}

    def packed(self, worker: str) -> bytes:
        """All that a worker holds, parents before what follows them where they came so."""
        return b"".join(self._held.get(worker, ()))

    def apply(self, worker: str, evicted: bytes, stored: bytes) -> None:
        """One frame of a worker's events, packed; a worker that is unknown begins with nothing."""
        held = self._held.setdefault(worker, {})
        for identity in _unpack(evicted):
            held.pop(identity, None)
        held.update(dict.fromkeys(_unpack(stored)))

    def reset(self, worker: str, identities: bytes) -> None:
        """The worker holds exactly these, packed."""
        self._held[worker] = dict.fromkeys(_unpack(identities))

    def drop(self, worker: str) -> None:
        """The worker is gone, or another incarnation of it has come. Costs what it held, not the index."""
        self._held.pop(worker, None)


def _unpack(packed: bytes) -> list[bytes]:
    if not packed:
        return []
    identities: list[bytes] = np.frombuffer(packed, dtype=_IDENTITY).tolist()
    return identities


def _depth(held: Mapping[bytes, None], identities: Sequence[bytes]) -> int:
    """How many leading identities are held: steps that double, then halves."""
    length = len(identities)
    if not length or identities[0] not in held:
        return 0
    low, step = 0, 1  # identities[low] is held
    while low + step < length and identities[low + step] in held:
        low += step
        step *= 2
    high = min(low + step, length)  # identities[high] is not, or does not exist
    while high - low > 1:
        middle = (low + high) // 2
        if identities[middle] in held:
            low = middle
        else:
            high = middle
    return high
