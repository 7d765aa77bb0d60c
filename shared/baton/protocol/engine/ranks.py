"""What ranks say to each other: rank 0 each batch and each transfer, the others what became of them."""

from __future__ import annotations

import msgspec

from baton.core.types import SamplingParams
from baton.protocol.engine.base import Message
from baton.protocol.engine.news import Path


class FreshRow(msgspec.Struct, frozen=True):
    """A `Fresh`, as it travels."""

    row: int
    sampling: SamplingParams
    stops: tuple[int, ...]
    prompt: int
    tokens: bytes
    last: int


class Step(Message, frozen=True, tag=True):
    """One batch for the following ranks: the fields of `Batch`, arrays as little-endian int32 bytes."""

    step: int
    fresh: list[FreshRow]
    arrays: list[bytes]
    following: list[bytes | None]
    masks: tuple[bytes, bytes] | None = None
    """Lines, and bits."""


class Send(Message, frozen=True, tag=True):
    """Push one chunk of an attempt, each rank its heads."""

    attempt: str
    worker: str
    chunk: int
    last: bool
    pages: tuple[int, ...]
    to: tuple[int, ...]
    through: int
    """Pages of the attempt that are sent with this chunk and those before it."""
    deadline: float
    """Nothing is posted after this, by the monotonic clock of this host."""


class Read(Message, frozen=True, tag=True):
    """Read a fetch's pages, each rank its heads."""

    fetch: str
    worker: str
    pages: tuple[int, ...]
    theirs: tuple[int, ...]
    timeout_s: float


class Expect(Message, frozen=True, tag=True):
    """Chunks of this attempt will come from that worker's ranks."""

    attempt: str
    worker: str
    timeout_s: float


class Forget(Message, frozen=True, tag=True):
    attempt: str


class Sent(Message, frozen=True, tag=True):
    """One rank's share of a chunk has ended: landed, or unable to land."""

    rank: int
    attempt: str
    chunk: int
    ok: bool
    bytes: int
    seconds: float


class Taken(Message, frozen=True, tag=True):
    """One rank's reading for a fetch has ended: all is here, or nothing can land any more."""

    rank: int
    fetch: str
    ok: bool


class Arrived(Message, frozen=True, tag=True):
    """A chunk of what one rank expects of an attempt has landed in its pool."""

    rank: int
    attempt: str
    pages: int
    """Of those reserved, from the first one on, that are complete on this rank."""
    complete: bool
    """All that the rank expects has landed."""


class Met(Message, frozen=True, tag=True):
    path: Path


class Lost(Message, frozen=True, tag=True):
    rank: int
    worker: str
    reason: str


class Introduced(Message, frozen=True, tag=True):
    """A following rank tells rank 0 how it is reached."""

    rank: int
    info: bytes
