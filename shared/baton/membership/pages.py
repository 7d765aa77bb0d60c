"""What the prefix cache holds, as the front was told: so that a snapshot asks nothing of the engine."""

from __future__ import annotations

from collections.abc import Iterable

from baton.protocol.engine import Pages
from baton.tokens.identity import IDENTITY_BYTES


class HeldPages:
    def __init__(self) -> None:
        # In order of arrival, so parents come before their children.
        self._held: dict[bytes, None] = {}

    def take(self, pages: Pages) -> tuple[list[bytes], list[bytes]]:
        """Note a change; what left and what came by it."""
        evicted, stored = _unpack(pages.evicted), _unpack(pages.stored)
        if pages.anew:
            now = set(stored)
            evicted = [one for one in reversed(self._held) if one not in now]
            stored = [one for one in stored if one not in self._held]
        for one in evicted:
            self._held.pop(one, None)
        self._held.update(dict.fromkeys(stored))
        return evicted, stored

    async def snapshot(self) -> Iterable[bytes]:
        """All identities, parents first."""
        return tuple(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"<HeldPages {len(self)}>"


def _unpack(packed: bytes) -> list[bytes]:
    return [packed[at : at + IDENTITY_BYTES] for at in range(0, len(packed), IDENTITY_BYTES)]
