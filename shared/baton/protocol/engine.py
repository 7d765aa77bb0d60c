"""The wire between a worker's front process and its engine ranks: typed, tagged, versioned messages.

    front ──Submit, Abort, Stop──► rank 0 ──Step──► ranks 1…
    front ◄──Ready, News, Fault──  rank 0

An unknown tag or version is a ProtocolMismatch, never skipped. Everything here is a plain value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from baton.core.errors import ProtocolMismatch
from baton.core.types import Request, SamplingParams, TokenLogprob

VERSION = 1
"""Raised when a message changes its meaning; both ends must agree."""


@dataclass(slots=True)
class Update:
    """News of one request for whoever asked for it."""

    id: str
    token: int | None = None
    finish: str | None = None
    """The value of a `Finish`."""
    logprob: TokenLogprob | None = None
    cached: int | None = None
    """Prompt tokens found in the cache; with the first token only."""
    scores: tuple[TokenLogprob, ...] | None = None
    """Log-probabilities of the prompt, from its second token on; with the first token."""
    error: str | None = None
    """Why it was refused or failed; `code` names the kind."""
    code: str | None = None
    field: str | None = None
    """The request's field at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine turned out to be, once it is ready."""

    pages: int
    """Pages that sequences can hold."""
    page_size: int
    page_bytes: int
    max_model_len: int
    vocab: int
    eos: tuple[int, ...]
    device: str
    dtype: str
    attention: str
    tensor_parallel: int
    fingerprint: bytes
    """Of everything that decides what a page of KV contains."""
    seconds: float
    """From the process's start to ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy an engine is."""

    waiting: int
    prefilling: int
    running: int
    pages_free: int
    pages_cached: int
    """Pages in the prefix cache, locked or not."""
    pages_evictable: int
    pages_total: int
    retractions: int
    steps: int


class Message(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """Base of every message; its class name is its tag."""


class Submit(Message, frozen=True, tag=True):
    request: Request


class Abort(Message, frozen=True, tag=True):
    id: str


class Stop(Message, frozen=True, tag=True):
    """End the process; what is unfinished is dropped."""


class Ready(Message, frozen=True, tag=True):
    version: int
    facts: EngineFacts


class Loading(Message, frozen=True, tag=True):
    """Where the start has got to."""

    stage: str
    done: float
    """Share of the stage, 0 to 1."""


class News(Message, frozen=True, tag=True):
    updates: list[Update]
    load: Load


class Fault(Message, frozen=True, tag=True):
    """The engine cannot go on; it exits after this."""

    rank: int
    code: str
    message: str


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


ToEngine = Submit | Abort | Stop
ToFront = Ready | Loading | News | Fault

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_to_front: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)
_step: msgspec.msgpack.Decoder[Step] = msgspec.msgpack.Decoder(Step)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ProtocolMismatch(f"cannot read a message of {len(data)} bytes: {error}") from error


def read_to_engine(data: bytes) -> ToEngine:
    return _decode(_to_engine, data)


def read_to_front(data: bytes) -> ToFront:
    return _decode(_to_front, data)


def read_step(data: bytes) -> Step:
    return _decode(_step, data)
