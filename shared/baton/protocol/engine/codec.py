"""Who may say what to whom, and messages as bytes. An unknown tag or version is a ProtocolMismatch."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from baton.core.errors import ProtocolMismatch
from baton.protocol.engine.asks import (
    Abort,
    AbortLeg,
    Ask,
    Began,
    Fetch,
    Lend,
    Local,
    Meet,
    Over,
    Part,
    Permit,
    Pull,
    Retry,
    RunLeg,
    Stop,
    Submit,
    Unlend,
    Watch,
)
from baton.protocol.engine.base import Message
from baton.protocol.engine.news import Fault, Loading, News, Pages, Ready
from baton.protocol.engine.ranks import (
    Arrived,
    Expect,
    Forget,
    Introduced,
    Lost,
    Met,
    Read,
    Send,
    Sent,
    Step,
    Taken,
)

FromFront = (
    Submit | Abort | Ask | Began | Retry | Local | Over | RunLeg | AbortLeg | Meet | Permit | Part
    | Fetch | Pull | Lend | Unlend | Watch | Stop
)  # fmt: skip
FromRank = Introduced | Sent | Arrived | Taken | Met | Lost
ToEngine = FromFront | FromRank
"""What rank 0 takes in."""
ToRank = Step | Send | Read | Expect | Forget | AbortLeg | Meet | Permit | Part
"""What a following rank is told."""
ToFront = Ready | Loading | News | Pages | Fault

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_to_front: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)
_to_rank: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolMismatch(f"cannot read a message of {len(data)} bytes: {error}") from error


def read_to_engine(data: bytes) -> ToEngine:
    return _decode(_to_engine, data)


def read_to_front(data: bytes) -> ToFront:
    return _decode(_to_front, data)


def read_to_rank(data: bytes) -> ToRank:
    return _decode(_to_rank, data)
