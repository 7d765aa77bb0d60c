"""A simulated worker's prefix cache: which pages it holds, least recently used first to go."""

from __future__ import annotations

from collections.abc import Sequence


class SimulatedCache:
    def __init__(self, pages: int) -> None:
        self.held: dict[bytes, None] = {}
        self._pages = pages

    def match(self, identities: Sequence[bytes]) -> int:
        """How many leading pages it holds."""
        for depth, identity in enumerate(identities):
            if identity not in self.held:
                return depth
        return len(identities)

    def store(self, identities: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Hold these, a prompt's pages in order: (evicted, stored). Leaves go before their parents."""
        held = self.held
        stored = [identity for identity in identities if identity not in held]
        for identity in reversed(identities):  # the end of a prefix is the first to go
            held.pop(identity, None)
            held[identity] = None
        evicted = []
        while len(held) > self._pages:
            oldest = next(iter(held))
            del held[oldest]
            evicted.append(oldest)
        return evicted, [identity for identity in stored if identity in held]
