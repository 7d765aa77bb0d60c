"""The notes that ride behind the data, and the count of what has landed of one attempt.

A note is sent once its chunk's data is visible in the destination's memory, so a receiver that has
the note has the chunk. It is bytes on NIXL's wire, decoded strictly: what is not a note of exactly
this form is no note. `Arrivals` is pure bookkeeping; the mover owns one per expected attempt.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

_HEAD = struct.Struct("<4sBBHII")
_MAGIC = b"bat2"
_MAX_ATTEMPT = 255


class NoteKind(Enum):
    LANDED = 1
    """The sender wrote a chunk into the receiver's pool."""
    TAKEN = 2
    """The sender has read a chunk from the receiver's pool."""


@dataclass(frozen=True, slots=True)
class Note:
    kind: NoteKind
    attempt: str
    rank: int
    """Of the sender, in its pod."""
    chunk: int
    """Counts from 0 within the attempt, on each rank."""
    last: bool
    pages: int = 0
    """Of the attempt, that are there when this chunk and all before it are."""


def encode(note: Note) -> bytes:
    attempt = note.attempt.encode()
    assert 0 < len(attempt) <= _MAX_ATTEMPT, f"an attempt id has 1 to {_MAX_ATTEMPT} bytes"
    return _HEAD.pack(_MAGIC, note.kind.value, note.last, note.rank, note.chunk, note.pages) + attempt


def decode(data: bytes) -> Note | None:
    """None when this is not a note."""
    if not _HEAD.size < len(data) <= _HEAD.size + _MAX_ATTEMPT:
        return None
    magic, kind, last, rank, chunk, pages = _HEAD.unpack_from(data)
    try:
        known = NoteKind(kind)
        attempt = data[_HEAD.size :].decode()
    except ValueError:
        return None
    if magic != _MAGIC or last > 1:
        return None
    return Note(known, attempt, rank, chunk, last == 1, pages)


@dataclass(slots=True)
class _Chunks:
    seen: dict[int, int] = field(default_factory=dict)
    """Chunk → pages that are there with it and all before it."""
    end: int | None = None
    """The last chunk's number, once known."""
    unbroken: int = 0
    """Chunks from the first one on, none missing."""
    pages: int = 0
    """That came with those."""

    def add(self, note: Note) -> None:
        self.seen[note.chunk] = note.pages
        if note.last:
            self.end = note.chunk
        while self.unbroken in self.seen:
            self.pages = max(self.pages, self.seen[self.unbroken])
            self.unbroken += 1

    @property
    def complete(self) -> bool:
        return self.end is not None and len(self.seen) == self.end + 1


class Arrivals:
    """Which chunks of one attempt are there, from each of the ranks that were to send some.

    Chunks may arrive in any order. Complete means every rank's last chunk and all before it.
    """

    def __init__(self, sources: Mapping[str, int]) -> None:
        """`sources`: incarnation → rank of everybody who will send a note."""
        assert sources, "an attempt that nobody sends"
        self._ranks = dict(sources)
        self._chunks = {incarnation: _Chunks() for incarnation in sources}

    def add(self, incarnation: str, note: Note) -> bool:
        """Count a note; False when it is not of this attempt's senders, came before, or cannot be."""
        chunks = self._chunks.get(incarnation)
        if chunks is None or self._ranks[incarnation] != note.rank or note.chunk in chunks.seen:
            return False
        if chunks.end is not None and (note.last or note.chunk > chunks.end):
            return False
        if note.last and chunks.seen and max(chunks.seen) > note.chunk:
            return False
        chunks.add(note)
        return True

    @property
    def pages(self) -> int:
        """How many of the attempt's pages, from the first one on, are there from all of them."""
        return min(chunks.pages for chunks in self._chunks.values())

    @property
    def complete(self) -> bool:
        return all(chunks.complete for chunks in self._chunks.values())

    def missing(self) -> tuple[int, ...]:
        """Ranks that have not sent all."""
        return tuple(sorted(self._ranks[i] for i, chunks in self._chunks.items() if not chunks.complete))
