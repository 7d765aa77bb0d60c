"""Reading a cached prefix out of another worker's pool instead of computing it.

    want → (the owner lends) → pull → every rank has read → in the cache

The reader's side of a remote prefix read (`loans` is the owner's). A fetch belongs to no request: what it
brings enters the prefix cache, where the request that it was made for, and any other, finds it. Its pages
are nobody else's until every rank's read has come to its end, well or not. Rank 0 owns it; synchronous,
torch-free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from baton.cache.base import Prefix
from baton.engine.holdings import Holdings
from baton.protocol import engine as wire

LOAN_S = 8.0
"""After the time that a reader asked for, an owner still keeps what it lends for this long: reads that were
begun in time come to their end within it (the mover's bound)."""
Command = Callable[[wire.ToRank], None]
"""Gives a command to every rank, this one included."""


@dataclass(slots=True)
class Fetch:
    """One prefix that is being fetched."""

    worker: str
    """Who lends it."""
    after: Prefix
    """What is here already; locked."""
    identities: tuple[bytes, ...]
    """Of the pages that are missing."""
    pages: list[int]
    """Ours, for those."""
    timeout_s: float
    asked_at: float
    """Before the owner was asked: its loan began later."""
    reading: int = 0
    """Of those, how many are being read; 0 before it was lent."""
    ended: list[bool] = field(default_factory=list)
    """What each rank said that has ended its reading."""


class Fetches:
    def __init__(
        self, holdings: Holdings, ranks: int, command: Command, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = now
        self.holdings = holdings
        self.ranks = ranks
        self.command = command
        self.done: list[wire.Fetched] = []
        """To be told."""
        self._open: dict[str, Fetch] = {}

    def want(self, message: wire.Fetch, spare: int) -> wire.Wanting | None:
        """Set pages aside for what is missing of a prefix, leaving `spare` that can still be taken. None
        (and a `Fetched` without pages) when nothing is missing or there is no room."""
        cache, id = self.holdings.cache, message.fetch
        match = cache.match(message.identities)
        missing = message.identities[len(match.pages) :]
        if id in self._open or len(missing) < max(message.least, 1) or not cache.reuses:
            self._nothing(id)
            return None
        cache.lock(match.prefix)
        if len(missing) + spare > self.holdings.available or not self.holdings.make_room(len(missing)):
            cache.unlock(match.prefix)
            self._nothing(id)
            return None
        pages = self.holdings.set_aside(len(missing))
        self._open[id] = Fetch(message.worker, match.prefix, missing, pages, message.timeout_s, self.now())
        return wire.Wanting(id, len(match.pages), len(missing))

    def pull(self, id: str, theirs: Sequence[int]) -> None:
        """The owner lends these pages, of those wanted the first ones; none at all ends the fetch."""
        fetch = self._open.get(id)
        if fetch is None or fetch.reading:
            return
        count = min(len(theirs), len(fetch.pages))
        if not count:
            self._end(id, fetch, ok=False)
            return
        fetch.reading = count
        ours = tuple(fetch.pages[:count])
        self.command(wire.Read(id, fetch.worker, ours, tuple(theirs[:count]), fetch.timeout_s))

    def read(self, id: str, ok: bool) -> None:
        """One rank's reading has come to its end: nothing of it can land any more."""
        fetch = self._open.get(id)
        assert fetch is not None and fetch.reading, f"a rank ended reading {id}, which was not being read"
        fetch.ended.append(ok)
        if len(fetch.ended) == self.ranks:
            self._end(id, fetch, ok=all(fetch.ended))

    def _end(self, id: str, fetch: Fetch, *, ok: bool) -> None:
        del self._open[id]
        # What was read after the owner's loan had run out may have been something else by then: a reader that
        # was stopped for long must not believe it.
        count = fetch.reading if ok and self.now() - fetch.asked_at < fetch.timeout_s + LOAN_S else 0
        pages = fetch.pages
        if count:
            inserted = self.holdings.cache.insert(fetch.after, fetch.identities[:count], pages[:count])
            given = [page for page, taken in zip(pages, inserted.taken, strict=False) if taken]
        else:
            given = []
        self.holdings.take_in(pages, kept=given)
        self.holdings.cache.unlock(fetch.after)
        self.done.append(wire.Fetched(id, count))

    def _nothing(self, id: str) -> None:
        self.done.append(wire.Fetched(id, 0))

    @property
    def open(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"<Fetches {len(self._open)} open>"
