"""What rank 0 says to its front: that it is ready, what came about in a step, and what the cache holds."""

from __future__ import annotations

import msgspec

from baton.protocol.engine.base import Message
from baton.protocol.engine.values import EngineFacts, Load, Update


class Ready(Message, frozen=True, tag=True):
    version: int
    facts: EngineFacts


class Loading(Message, frozen=True, tag=True):
    """Where the start has got to."""

    stage: str
    done: float
    """Share of the stage, 0 to 1."""


class Reservation(msgspec.Struct, frozen=True):
    """Pages wait for a prompt's KV."""

    id: str
    attempt: str
    first: int
    pages: tuple[int, ...]
    cached: int


class LegEnd(msgspec.Struct, frozen=True):
    """A leg is over: nothing of it can land any more."""

    attempt: str
    complete: bool
    seconds: float = 0.0
    """That its pages were on their way: of each chunk from the first post to the last byte, at the slowest
    rank."""


class Wanting(msgspec.Struct, frozen=True):
    """Pages wait for a prefix: ask its owner to lend them."""

    fetch: str
    first: int
    """Pages of the prefix that are here already."""
    pages: int


class Fetched(msgspec.Struct, frozen=True):
    """A fetch is over: nothing is read for it any more."""

    fetch: str
    pages: int
    """That came into the cache."""


class Lent(msgspec.Struct, frozen=True):
    """Pages are kept for a reader until it gives them back."""

    loan: str
    pages: tuple[int, ...]
    """Perhaps fewer than it wants, perhaps none: then there is nothing to give back."""


class Path(msgspec.Struct, frozen=True):
    """What the way to another worker's rank turned out to be."""

    worker: str
    rank: int
    ok: bool
    message: str
    write_gb_s: float
    read_gb_s: float
    transport: str


class News(Message, frozen=True, tag=True):
    updates: list[Update]
    load: Load
    reserved: list[Reservation] = msgspec.field(default_factory=list)
    ended: list[LegEnd] = msgspec.field(default_factory=list)
    landed: list[str] = msgspec.field(default_factory=list)
    """Attempts whose pages have all landed here."""
    paths: list[Path] = msgspec.field(default_factory=list)
    lost: list[str] = msgspec.field(default_factory=list)
    """Workers whose connection broke, with a reason after a space."""
    wanting: list[Wanting] = msgspec.field(default_factory=list)
    fetched: list[Fetched] = msgspec.field(default_factory=list)
    lent: list[Lent] = msgspec.field(default_factory=list)


class Pages(Message, frozen=True, tag=True):
    """A change of the prefix cache, to be taken in this order. Said only to who asked by Watch."""

    evicted: bytes
    """Identities of pages that left, packed, leaves first."""
    stored: bytes
    """Identities of pages that came, packed, parents first."""
    anew: bool = False
    """Whatever was said before is void: the cache holds what follows and nothing else."""


class Fault(Message, frozen=True, tag=True):
    """The engine cannot go on; it exits after this."""

    rank: int
    code: str
    message: str
