"""What a worker's front says to rank 0: requests, hand-overs, other workers, prefixes read and lent."""

from __future__ import annotations

from baton.core.types import Request, TokenLogprob
from baton.protocol.engine.base import Message


class Submit(Message, frozen=True, tag=True):
    request: Request
    deadline: float | None = None
    """When its answer is of no use any more, by the monotonic clock of this host."""


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
    deadline: float | None = None
    """As of `Submit`."""


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
    timeout_s: float
    """As of `Ask`."""


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
    deadline: float
    """Nothing is posted after this, by the monotonic clock of this host. Legs are computed in this order, as
    far as their priority is the same; one that cannot be done by then is refused."""


class AbortLeg(Message, frozen=True, tag=True):
    """End a leg; that it has ended is said in any case."""

    attempt: str


class Meet(Message, frozen=True, tag=True):
    """Another worker with which pages may be exchanged."""

    worker: str
    ranks: tuple[bytes, ...]
    guarded: bool = False
    """It is written only while it permits it (`Permit`)."""


class Permit(Message, frozen=True, tag=True):
    """That worker may be written."""

    worker: str
    until: float
    """By the monotonic clock of this host."""


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
