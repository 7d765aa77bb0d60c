"""What rank 0 tells its front of the prefix cache: nothing until asked, then everything and each change.

The loop of rank 0 owns it and calls `tell` after every step. Changes wait in the cache, which keeps only
what differs from the last telling, so a front that does not read costs no memory here and holds up no
step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import zmq

from baton.cache.base import Evicted, PrefixCache
from baton.protocol import engine as wire
from baton.tokens.identity import IDENTITY_BYTES

PAUSE_S = 0.02
"""Between two tellings while the engine works: what changes in between goes together."""
MOST_BYTES = 65_536 * IDENTITY_BYTES
"""Of one message: 1 MiB."""


class PageFeed:
    def __init__(
        self, cache: PrefixCache, outbox: zmq.Socket[bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._outbox = outbox
        self._clock = clock
        self._wanted = False
        self._anew = False
        self._next = 0.0

    def watch(self) -> None:
        """The front wants to know: all that is held, with the next telling, and then every change."""
        self._wanted = self._anew = True
        self._next = 0.0

    def tell(self, *, idle: bool) -> None:
        """Say what changed, if it is time. `idle`: the loop is about to sleep, so nothing may be left."""
        if not self._wanted or not (idle or self._clock() >= self._next):
            return
        if not self._outbox.poll(0, zmq.POLLOUT):
            return  # the front is behind; what it misses now it is told later
        changes = self._cache.events()
        if self._anew:
            self._anew = False
            stored = b"".join(identity for identity, _ in self._cache.snapshot())
            self._send(b"", stored, anew=True)
        elif changes:
            evicted = b"".join(one.identity for one in changes if isinstance(one, Evicted))
            stored = b"".join(one.identity for one in changes if not isinstance(one, Evicted))
            self._send(evicted, stored, anew=False)
        self._next = self._clock() + PAUSE_S

    def _send(self, evicted: bytes, stored: bytes, *, anew: bool) -> None:
        for part in _cut(evicted, stored, anew):
            self._outbox.send(wire.encode(part))

    def __repr__(self) -> str:
        return f"<PageFeed of {self._cache!r}, {'watched' if self._wanted else 'nobody listens'}>"


def _cut(evicted: bytes, stored: bytes, anew: bool) -> Iterator[wire.Pages]:
    """The same in the same order, no message with more than MOST_BYTES of either."""
    for at in range(0, max(len(evicted), 1), MOST_BYTES):
        last = at + MOST_BYTES >= len(evicted)
        yield wire.Pages(evicted[at : at + MOST_BYTES], stored[:MOST_BYTES] if last else b"", anew and not at)
    for at in range(MOST_BYTES, len(stored), MOST_BYTES):
        yield wire.Pages(b"", stored[at : at + MOST_BYTES])
