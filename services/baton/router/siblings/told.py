"""What one process tells who follows it: what it has placed, what came of it, and each second's figures.

Both ends are of one installation and one host, so nothing has a version, and moments are by the monotonic
clock that all processes of a host share. Each message goes after its length.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from baton.core.errors import PeerLost

HEAD = struct.Struct("<I")
MOST_BYTES = 1 << 24
"""In one message."""


Observed = tuple[tuple[float, float, float], ...]
"""Of a histogram: above, up to (both in seconds), and how many were between; only where there were any."""


class Second(msgspec.Struct, frozen=True, array_like=True):
    """What was counted up to the beginning of a second, since the one before."""

    number: int
    """Of the clock's seconds."""
    spent: float
    """How long that took, in seconds."""
    requests: float
    prompt: float
    """Prompt tokens that pods took in, whoever sent them: any process that asks them is told of all."""
    cached: float
    generated: float
    ttft: Observed
    itl: Observed


class State(msgspec.Struct, frozen=True, array_like=True):
    """How a process is now."""

    running: int = 0
    waiting: int = 0
    shunned: tuple[str, ...] = ()
    slow: dict[str, float] = {}
    """Worker → how many times longer than it claims it was seen to take."""


class Told(msgspec.Struct, frozen=True, array_like=True, tag_field="type"):
    """Base of all messages."""


class Begun(Told, frozen=True, tag=0, array_like=True):
    """The first to every follower: what was before."""

    placements: list[dict[str, Any]]
    """Oldest first."""
    seconds: list[Second]


class Placed(Told, frozen=True, tag=1, array_like=True):
    frame: dict[str, Any]


class Ended(Told, frozen=True, tag=2, array_like=True):
    """How a placement turned out."""

    frame: dict[str, Any]


class Ticked(Told, frozen=True, tag=3, array_like=True):
    second: Second
    state: State


Message = Begun | Placed | Ended | Ticked
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(told: Told) -> bytes:
    data = _encoder.encode(told)
    return HEAD.pack(len(data)) + data


class Unpacking:
    """Makes messages again of the bytes of one stream."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Those that are whole now. PeerLost for what cannot be read."""
        self._rest += data
        found: list[Message] = []
        at = 0
        while len(self._rest) - at >= HEAD.size:
            (length,) = HEAD.unpack_from(self._rest, at)
            if length > MOST_BYTES:
                raise PeerLost(f"a sibling tells {length} bytes at once")
            end = at + HEAD.size + length
            if len(self._rest) < end:
                break
            try:
                found.append(_decoder.decode(bytes(self._rest[at + HEAD.size : end])))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise PeerLost(f"a sibling cannot be understood: {error}") from error
            at = end
        del self._rest[:at]
        return found
