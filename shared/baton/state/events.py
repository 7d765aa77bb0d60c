"""The bytes in which prefix events and snapshots travel: 16-byte identities, packed, and a few counts.

An entry of a worker's stream is one or more frames. A frame is two little-endian 32-bit counts, then
that many evicted identities, then that many stored ones; a reader applies it in that order. A snapshot is a
64-bit sequence number, then the identities that were held when that many entries had been numbered;
replaying every later entry on top of it gives the content, even if it was taken a little later.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from baton.core.errors import ProtocolMismatch
from baton.tokens.identity import IDENTITY_BYTES

FIELD = b"b"
"""The one field of an entry."""
ENTRY_IDENTITIES = 4096
"""The most identities in one entry: 64 KiB, and a fraction of a millisecond to apply."""

_COUNTS = struct.Struct("<II")
_SEQUENCE = struct.Struct("<Q")

Frame = tuple[bytes, bytes]
"""(evicted, stored), packed."""


def pack(identities: Iterable[bytes]) -> bytes:
    """Joined; whole packs may stand among the identities."""
    packed = b"".join(identities)
    if len(packed) % IDENTITY_BYTES:
        raise ValueError(f"{len(packed)} bytes are no whole number of identities of {IDENTITY_BYTES}")
    return packed


def count(frame: Frame) -> int:
    return (len(frame[0]) + len(frame[1])) // IDENTITY_BYTES


def write_entries(frames: Iterable[Frame], limit: int = ENTRY_IDENTITIES) -> Iterator[tuple[bytes, int]]:
    """(entry, how many identities are in it): frames in their order, large ones cut, small ones together."""
    parts: list[bytes] = []
    held = 0
    for evicted, stored in _cut(frames, limit):
        size = count((evicted, stored))
        if parts and held + size > limit:
            yield b"".join(parts), held
            parts, held = [], 0
        lengths = _COUNTS.pack(len(evicted) // IDENTITY_BYTES, len(stored) // IDENTITY_BYTES)
        parts += (lengths, evicted, stored)
        held += size
    if parts:
        yield b"".join(parts), held


def _cut(frames: Iterable[Frame], limit: int) -> Iterator[Frame]:
    """The same changes in the same order, no frame with more than `limit` identities."""
    most = limit * IDENTITY_BYTES
    for evicted, stored in frames:
        if len(evicted) + len(stored) <= most:
            yield evicted, stored
            continue
        for start in range(0, len(evicted), most):
            yield evicted[start : start + most], b""
        for start in range(0, len(stored), most):
            yield b"", stored[start : start + most]


def read_entry(data: bytes) -> list[Frame]:
    frames: list[Frame] = []
    at = 0
    try:
        while at < len(data):
            evicted, stored = (n * IDENTITY_BYTES for n in _COUNTS.unpack_from(data, at))
            at += _COUNTS.size
            frames.append((data[at : at + evicted], data[at + evicted : at + evicted + stored]))
            at += evicted + stored
    except struct.error as error:
        raise ProtocolMismatch(f"cannot read prefix events of {len(data)} bytes: {error}") from error
    if at != len(data):
        raise ProtocolMismatch(f"prefix events name {at} bytes, and {len(data)} are there")
    return frames


def write_snapshot(sequence: int, identities: bytes) -> bytes:
    return _SEQUENCE.pack(sequence) + identities


def snapshot_sequence(data: bytes) -> int:
    """Of a snapshot, or of its first eight bytes; -1 where there is none."""
    return int(_SEQUENCE.unpack_from(data)[0]) if len(data) >= _SEQUENCE.size else -1


def read_snapshot(data: bytes) -> tuple[int, bytes]:
    identities = data[_SEQUENCE.size :]
    if len(data) < _SEQUENCE.size or len(identities) % IDENTITY_BYTES:
        raise ProtocolMismatch(f"cannot read a snapshot of {len(data)} bytes")
    return snapshot_sequence(data), identities


SNAPSHOT_HEAD = _SEQUENCE.size
