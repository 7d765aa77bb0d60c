"""What the engine asks of the mover, what the mover answers, and the bounds it works within.

All of it is frozen and stays inside one process; what travels between pods is in `messages`.
Times are durations in seconds, measured by the mover's own clock from the moment it takes an order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from baton.transfer.layout import Span

Ready = Callable[[], bool]
"""Asked again and again until true, on the mover's thread; must not block. A CUDA event's `query` is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One chunk of one attempt between this rank and one peer. At most one per (attempt, peer, chunk)."""

    attempt: str
    chunk: int
    """Counts from 0 within the attempt and peer."""
    last: bool
    """No further chunk of this attempt follows for this peer. May have no pages at all."""
    peer: str
    """Incarnation of the peer."""
    span: Span
    """Which heads, seen from the source and the destination of the bytes."""
    through: int = 0
    """Pages of the attempt that have been ordered when this chunk has, which its note repeats."""
    local_pages: Sequence[int]
    remote_pages: Sequence[int]
    """As many as `local_pages`, in the same order."""
    timeout_s: float
    """Nothing is posted after this, and the outcome is reported at this time at the latest."""
    ready: Ready | None = None
    """The pages' last write is not finished before this is true. None: it is finished now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push(Order):
    """Write local pages into the peer's pool; the peer's mover reports `Landed`."""

    guarded: bool = False
    """Nothing is posted but while the peer permits it (`Mover.permit`); bytes that are in flight when its
    permission lapses have their peer dropped, so that they can land no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull(Order):
    """Read the peer's pages into local ones; the peer's mover reports `Taken`."""


class Outcome(Enum):
    DONE = "done"
    """Every byte is visible in the destination and the note is on its way."""
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    PEER_LOST = "peer_lost"
    """The peer is unknown, was dropped, or its connection broke."""
    FAILED = "failed"
    """The transport refused, or `ready` raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How an order ended: exactly one for each order taken."""

    attempt: str
    chunk: int
    peer: str
    outcome: Outcome
    bytes: int
    """That are known to have arrived."""
    waited: float
    """Seconds from taking the order to the first post, or to the end when nothing was posted."""
    seconds: float
    """Seconds from the first post to the end."""
    quiet: bool
    """No byte of this order can land any more. When False, one `Quieted` follows."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Quieted:
    """An order that ended with bytes in flight: none is in flight now."""

    attempt: str
    chunk: int
    peer: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """The answer to `cancel`, once: nothing of this attempt can land any more, from this rank."""

    attempt: str


@dataclass(frozen=True, slots=True)
class Landed:
    """A chunk that a peer wrote is in the local pool."""

    attempt: str
    source: str
    """Incarnation of the writer."""
    rank: int
    chunk: int
    last: bool
    complete: bool
    """Every chunk of every expected source has landed; the attempt is expected no longer."""
    pages: int
    """Of the attempt, from the first one on, that are there from every expected source."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A peer has read a chunk of local pages; the fields are those of `Landed`."""

    attempt: str
    source: str
    rank: int
    chunk: int
    last: bool
    complete: bool
    pages: int


@dataclass(frozen=True, slots=True)
class Overdue:
    """An expected attempt was not complete in time and is expected no longer."""

    attempt: str
    ranks: tuple[int, ...]
    """The sources that have not sent all."""


@dataclass(frozen=True, slots=True)
class PeerDropped:
    """A peer is gone from this mover: asked for, its connection broke, or it stalled."""

    peer: str
    reason: str
    asked: bool = False
    """By `Mover.drop_peer`."""


@dataclass(frozen=True, slots=True)
class MoverDied:
    """The mover's thread ended by a fault in it. Every order was reported before; no other report follows."""

    reason: str


Report = Moved | Quieted | Aborted | Landed | Taken | Overdue | PeerDropped | MoverDied
Sources = Mapping[str, int]
"""Incarnation → rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound of a mover. After an order's deadline nothing of it lands later than `fence_s`, and of a
    guarded one not later than `settle_s` after its permission has lapsed."""

    orders: int = 4096
    """Orders taken and not ended; more are refused with `QueueFull`."""
    window: int = 4
    """Parts of one order in flight at once."""
    part_descriptors: int = 64
    """About 0.5 ms of posting on cuda_ipc: what a cancel waits for, and what delays another order."""
    part_bytes: int = 256 << 20
    linger_s: float = 5.0
    """An order that ended with bytes in flight may take this long; then its peer is dropped."""
    settle_s: float = 0.5
    """After a peer's connection is closed by force, copies that were already submitted to the hardware
    may run on for this long."""
    path_s: float = 60.0
    """For a first contact, its measurement included."""
    retired: int = 65536
    """Cancelled attempts that are remembered, so that an order that comes late is refused."""

    @property
    def fence_s(self) -> float:
        return self.linger_s + self.settle_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long the thread sleeps between two looks. A command ends any sleep.

    While something is under way or expected, it sleeps a share of the time that nothing has happened,
    so what it waited for is seen late by that share at most, and a long wait costs little.
    """

    spin_s: float = 100e-6
    """With a transfer in flight it does not sleep for this long after something happened. The note that
    follows the data waits for the look that sees the data's end."""
    share: float = 0.05
    shortest_s: float = 30e-6
    longest_s: float = 500e-6
    idle_s: float = 0.5
    """Nothing is going on: a command wakes it, and the transport has a thread of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a mover has done so far; for metrics."""

    taken: int
    """Orders taken."""
    under_way: int
    """Orders not ended, or ended with bytes in flight."""
    ended: Mapping[Outcome, int]
    written: int
    """Bytes."""
    read: int
    heard: int
    """Notes that were expected."""
    stray: int
    """Notes of no attempt that is expected, twice sent, or malformed."""
