"""The wire between a worker's front process and its engine ranks: typed, tagged, versioned messages.

    front ──Submit, Abort, Stop──────────────► rank 0 ──Step, Send, Expect, Meet…──► ranks 1…
          ──Ask, Began, Retry, Local, Over──►          ◄──Sent, Arrived, Met, Lost──
          ──RunLeg, AbortLeg, Meet, Part────►
          ──Watch───────────────────────────►
          ──Fetch, Pull, Lend, Unlend───────►          ──Read──►  ◄──Taken──
    front ◄──Ready, News, Pages, Fault───────  rank 0

An unknown tag or version is a ProtocolMismatch, never skipped. Everything here is a plain value.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from baton.core.errors import ProtocolMismatch
from baton.core.types import Request, SamplingParams, TokenLogprob

VERSION = 1
"""Raised when a message changes its meaning; both ends must agree."""


@dataclass(slots=True)
class Course:
    """What happened to a request since its last update."""

    marks: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    """What, and when by the monotonic clock of this host."""
    prefill: str = ""
    """The pod that computed the prompt, where another one did."""
    handed: int = 0
    """Bytes that were written into this pod."""


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
    course: Course | None = None
    """When something happened besides."""


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
    kv_dtype: str = ""
    """What the pool holds, where it is not `dtype`."""
    attention: str
    tensor_parallel: int
    fingerprint: bytes
    """Of everything that decides what a page of KV contains."""
    ranks: tuple[bytes, ...] = ()
    """How other workers' ranks reach each of ours (`baton.transfer.PeerInfo`, encoded); empty when the
    engine was started without hand-over."""
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
    pages_fenced: int = 0
    """Pages that a writer which was given up might still write."""
    retractions: int
    steps: int
    prefill_tokens_queued: int = 0
    """Prompt tokens that are still to be computed here, of admitted prompts and of those that wait; what the
    cache will be found to hold of the latter is in it."""
    prefill_tokens_per_s: float = 0.0
    """Measured over the last steps that computed prompts; 0 before the first."""
    decode_step_ms: float = 0.0
    """Median of the last steps that only decoded; 0 before the first."""


class Message(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """Base of every message; its class name is its tag."""


class Submit(Message, frozen=True, tag=True):
    request: Request


class Abort(Message, frozen=True, tag=True):
    id: str


class Ask(Message, frozen=True, tag=True):
    """A request whose prompt another worker is to compute: reserve its pages and say so."""

    request: Request
    attempt: str
    worker: str
    """Who will write."""
    timeout_s: float
    """How long the attempt may take, from the reservation on."""
    local_below: int
    """Fewer uncached tokens than this are computed here instead."""


class Began(Message, frozen=True, tag=True):
    """The first token of an attempt, sampled where the prompt was computed."""

    attempt: str
    token: int
    logprob: TokenLogprob | None
    scores: tuple[TokenLogprob, ...]


class Retry(Message, frozen=True, tag=True):
    """Reserve again for a request under a new attempt, keeping what has landed."""

    id: str
    attempt: str
    worker: str


class Local(Message, frozen=True, tag=True):
    """Compute the rest of a request's prompt here, keeping what has landed."""

    id: str


class Over(Message, frozen=True, tag=True):
    """Nothing of this attempt can land any more: its writer said so, or is fenced off."""

    attempt: str


class RunLeg(Message, frozen=True, tag=True):
    """Compute a prompt for another worker and push its pages there."""

    request: Request
    """Its id is the attempt's."""
    worker: str
    first: int
    """Index of the first page of the prompt that is wanted."""
    pages: tuple[int, ...]
    """Where those pages go, in the other worker's pool."""
    timeout_s: float
    """Nothing is posted later than this after now."""


class AbortLeg(Message, frozen=True, tag=True):
    """End a leg; that it has ended is said in any case."""

    attempt: str


class Meet(Message, frozen=True, tag=True):
    """Another worker with which pages may be exchanged."""

    worker: str
    ranks: tuple[bytes, ...]


class Part(Message, frozen=True, tag=True):
    """That worker is gone: nothing more is exchanged with it."""

    worker: str


class Watch(Message, frozen=True, tag=True):
    """Tell what the prefix cache holds, and from then on every change of it."""


class Fetch(Message, frozen=True, tag=True):
    """Make ready to read a cached prefix out of another worker's pool."""

    fetch: str
    worker: str
    identities: tuple[bytes, ...]
    least: int
    """Missing pages below which it is not worth it."""
    timeout_s: float
    """How long the reading may take."""


class Pull(Message, frozen=True, tag=True):
    """A fetch's pages are lent: read them. Without pages the fetch ends."""

    fetch: str
    pages: tuple[int, ...]
    """In the other worker's pool."""


class Lend(Message, frozen=True, tag=True):
    """Keep what is cached of this prefix for another worker to read."""

    loan: str
    identities: tuple[bytes, ...]
    first: int
    """Pages of the prefix that the reader has."""


class Unlend(Message, frozen=True, tag=True):
    """The reader has what it wanted, or wants it no more."""

    loan: str


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
    reserved: list[Reservation] = []
    ended: list[LegEnd] = []
    landed: list[str] = []
    """Attempts whose pages have all landed here."""
    paths: list[Path] = []
    lost: list[str] = []
    """Workers whose connection broke, with a reason after a space."""
    wanting: list[Wanting] = []
    fetched: list[Fetched] = []
    lent: list[Lent] = []


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
    timeout_s: float


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


FromFront = (
    Submit | Abort | Ask | Began | Retry | Local | Over | RunLeg | AbortLeg | Meet | Part
    | Fetch | Pull | Lend | Unlend | Watch | Stop
)  # fmt: skip
FromRank = Introduced | Sent | Arrived | Taken | Met | Lost
ToEngine = FromFront | FromRank
"""What rank 0 takes in."""
ToRank = Step | Send | Read | Expect | Forget | AbortLeg | Meet | Part
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
    except msgspec.MsgspecError as error:
        raise ProtocolMismatch(f"cannot read a message of {len(data)} bytes: {error}") from error


def read_to_engine(data: bytes) -> ToEngine:
    return _decode(_to_engine, data)


def read_to_front(data: bytes) -> ToFront:
    return _decode(_to_front, data)


def read_to_rank(data: bytes) -> ToRank:
    return _decode(_to_rank, data)
