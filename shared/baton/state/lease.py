"""What a worker says of itself: the lease, and the two messages that carry it.

Facts (addresses, NIXL metadata, fingerprints) seldom change and may be large; the beat is small and sent
every second. A reader fetches the facts again only when a beat names another version of them. Durations
travel, clock times never do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

from baton.core.errors import InvalidField, ProtocolMismatch

Role = Literal["prefill", "decode", "unified"]

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}")
"""What a worker may be called; above all no brace, which would break the keys' hash tag."""


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a worker is, as of its last beat."""

    waiting: int = 0
    running: int = 0
    prefilling: int = 0
    pages_free: int = 0
    pages_evictable: int = 0
    """Held by the prefix cache alone: free when asked for."""
    prefill_tokens_queued: int = 0
    prefill_tokens_per_s: float = 0.0
    """Measured; 0 before the first prefill."""
    decode_step_ms: float = 0.0
    """Measured; 0 before the first step."""


class WorkerLease(msgspec.Struct, frozen=True, kw_only=True):
    """One live worker. Its owner replaces it whole; readers share it."""

    id: str
    """The pod's name."""
    incarnation: str
    """Of this run of it (`baton.core.incarnation_id`); a restarted worker has another and holds no page."""
    role: Role
    http: str
    """Where requests go: `http://host:port`."""
    control: str = ""
    """Where handoffs are asked for, by ZMQ: `tcp://host:port`."""
    agents: tuple[bytes, ...] = ()
    """NIXL agent metadata, one per rank."""
    tensor_parallel: int = 1
    page_size: int
    """Tokens a page holds."""
    pages: int
    """Pages that sequences can hold."""
    model: str
    """The name that clients ask for."""
    max_model_len: int = 0
    """Longest sequence, prompt and output together, in tokens."""
    vocabulary: int = 0
    """Token ids are below this."""
    page_bytes: int = 0
    """What one page of it costs to move, all ranks together."""
    model_fingerprint: str
    layout_fingerprint: str
    """What two pools must share before pages may move between them."""
    generation: str = ""
    """Label of the rollout that this worker belongs to."""
    node: str = ""
    """Topology: the host it runs on, and that host's zone."""
    zone: str = ""
    draining: bool = False
    """Takes no new work."""
    bandwidths: Mapping[str, float] = msgspec.field(default_factory=dict)
    """Peer's id → GB/s measured between the two pools."""
    load: WorkerLoad = WorkerLoad()
    events: int = 0
    """Sequence number of the last batch of prefix events; a reader that is behind it misses some."""

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise InvalidField("id", f"{self.id!r} is no name for a worker")
        if not ID.fullmatch(self.incarnation):
            raise InvalidField("incarnation", f"{self.incarnation!r} is no name for a run of a worker")
        if self.page_size < 1 or self.pages < 0 or self.tensor_parallel < 1:
            raise InvalidField("page_size", "page_size and tensor_parallel are 1 or more, pages 0 or more")


BEATEN = frozenset({"draining", "load", "events"})
"""The fields that travel with each beat; the others are facts."""


class Beat(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A renewal. New fields go to the end and need a default: old readers skip them."""

    incarnation: str
    count: int
    """Grows with each beat of one incarnation; a reader takes a lease as renewed when it has grown."""
    facts: int
    """Version of the facts that hold now."""
    expiry_ms: int
    """Without another beat for so long, the lease has ended."""
    draining: bool
    load: WorkerLoad
    events: int
    withdrawn: bool = False
    """The worker has left of its own will; this is its last beat."""


class Facts(msgspec.Struct, frozen=True, array_like=True):
    version: int
    lease: WorkerLease


T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_beats: msgspec.msgpack.Decoder[Beat] = msgspec.msgpack.Decoder(Beat)
_facts: msgspec.msgpack.Decoder[Facts] = msgspec.msgpack.Decoder(Facts)


def layout_of(fingerprint: str, page_size: int) -> str:
    """What workers must agree on to share pages, and to go on with each other's answers."""
    return f"{fingerprint}/{page_size}"


def encode(message: Beat | Facts) -> bytes:
    return _encoder.encode(message)


def read_beat(data: bytes) -> Beat:
    return _decode(_beats, data)


def read_facts(data: bytes) -> Facts:
    return _decode(_facts, data)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidField) as error:
        raise ProtocolMismatch(f"cannot read a lease of {len(data)} bytes: {error}") from error
