"""The wire between pods: a decode pod asks a prefill pod to compute a prompt into its pages.

    decode ──Hello, Leg, AbortLeg, Ping──► prefill
           ◄──Hello, First, Ended, Refused, Ping──
           ◄──Renew──   ──Renewed──►
    reader ──Borrow, Returned──► owner
           ◄──Lent──

A connection carries both: who asks for legs may be asked for cached pages over it, and the other way.
Typed, tagged, versioned. Both say `Hello` first: another version, model, dtype or page size is a
ProtocolMismatch that both ends log. Durations, never clock times, cross hosts.
"""

from __future__ import annotations

import msgspec

from baton.core.errors import InvalidField, ProtocolMismatch
from baton.core.types import Request, TokenLogprob

VERSION = 2
HEARTBEAT_S = 1.0
"""Each end says something at least this often."""
SILENCE_S = 3.0
"""A peer that said nothing for this long is taken for lost."""
PERMIT_S = 3.0
"""A permission to write lasts this long from when it was asked for, by the clock of who asked."""
LAPSE_S = PERMIT_S + 2.0
"""This long after the last permission was given nothing of its writer can land: it posts no more, has closed
the connection if anything was in flight, and what the hardware had by then has settled (half a second)."""


class Message(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """Base of every message; its class name is its tag."""


class Hello(Message, frozen=True, tag=True):
    version: int
    worker: str
    """The sender's incarnation: made anew at every start."""
    role: str
    fingerprint: bytes
    """Of everything that decides what a page of KV contains."""
    page_size: int
    ranks: tuple[bytes, ...]
    """How the sender's ranks are reached by the transport."""
    pod: str = ""
    """What the sender's pod is called, run after run."""
    session: str = ""
    """Made by who asks for legs, repeated in the answer: another one ends every leg of the one before."""


class Leg(Message, frozen=True, tag=True, omit_defaults=True):
    """Compute this prompt and push its pages into mine."""

    attempt: str
    request: Request
    first: int
    pages: tuple[int, ...]
    timeout_s: float
    """Of no use later than this after now; within one priority, legs with less time come first."""
    lender: str = ""
    """A pod that is said to hold more of the prompt's prefix than either of us; empty where none is."""
    trace: str = ""
    """The request's W3C `traceparent`. Not on the wire where there is none, so that pods of a release without
    it are asked as ever."""


class AbortLeg(Message, frozen=True, tag=True):
    attempt: str


class First(Message, frozen=True, tag=True):
    """The first token, ahead of its KV."""

    attempt: str
    token: int
    logprob: TokenLogprob | None
    scores: tuple[TokenLogprob, ...]
    cached: int
    marks: tuple[tuple[str, float], ...] = ()
    """What happened to the leg, and how many seconds ago."""


class Ended(Message, frozen=True, tag=True):
    """Nothing of this attempt can land any more."""

    attempt: str
    complete: bool
    reason: str = ""
    seconds: float = 0.0
    """That its pages were on their way."""
    begun: bool = True
    """False: the leg was refused, and nothing was done for it."""
    code: str = ""
    """Of what ended it, where that was an error: `deadline_exceeded` for what could not be done in time."""


class Renew(Message, frozen=True, tag=True):
    """Permit me to write into your pool for a while longer."""

    worker: str
    """Who asks: an answer that reaches its successor is for nobody."""
    at: float
    """When, by the sender's clock; means nothing to the receiver."""


class Renewed(Message, frozen=True, tag=True):
    """It is permitted until `PERMIT_S` after that moment. Given only to whom the giver has not taken for lost
    since: who was lost is greeted anew first."""

    worker: str
    at: float


class Borrow(Message, frozen=True, tag=True):
    """Keep what you have cached of this prefix, and say where: I read it out of your pool."""

    loan: str
    identities: tuple[bytes, ...]
    first: int
    """Pages of the prefix that I have."""
    timeout_s: float
    """I read nothing later than this after now."""


class Lent(Message, frozen=True, tag=True):
    """Pages of a prefix, from the first one wanted on, that stay what they are until they are returned.
    None: it is not here (any more), and nothing need be returned."""

    loan: str
    pages: tuple[int, ...]


class Returned(Message, frozen=True, tag=True):
    """I read nothing of this loan any more."""

    loan: str


class Refused(Message, frozen=True, tag=True):
    """This peer cannot be served at all, or is not wanted any more: whatever was asked for is over."""

    reason: str


class Ping(Message, frozen=True, tag=True):
    """I am here; says how much is queued, and whether more is welcome."""

    waiting: int = 0
    draining: bool = False


PodMessage = (
    Hello | Leg | AbortLeg | First | Ended | Renew | Renewed | Borrow | Lent | Returned | Refused | Ping
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[PodMessage] = msgspec.msgpack.Decoder(PodMessage)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def read(data: bytes) -> PodMessage:
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidField) as error:
        raise ProtocolMismatch(f"cannot read a pod's message of {len(data)} bytes: {error}") from error


def asker(session: str) -> str:
    """Whose session it is: what stands before the dot is kept when a worker is lost and met again. Two askers
    of one worker are two addresses by which it knows the other."""
    return session.partition(".")[0]


def unfit(mine: Hello, theirs: Hello) -> str:
    """Why two pods cannot exchange pages; empty when they can."""
    if mine.version != theirs.version:
        return f"the peer speaks protocol version {theirs.version}, this pod {mine.version}"
    if mine.fingerprint != theirs.fingerprint:
        return "the peer serves another model, or the same with another dtype or kv_cache_dtype"
    if mine.page_size != theirs.page_size:
        return f"the peer's pages have {theirs.page_size} tokens, this pod's {mine.page_size}"
    if not theirs.ranks:
        return "the peer was started without hand-over"
    return ""
