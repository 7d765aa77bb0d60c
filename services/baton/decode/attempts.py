"""Attempts at hand-overs until their end is known. `Handoffs` owns them and is their only caller.

The pages of an attempt that was given up are fenced by the engine until they are over: its writer has said
that it has ended, or has no leave to write any more (`pods.LAPSE_S` after it was last given). A writer that
lives and does not say it is taken for lost, so that it loses its leave; nobody waits for it for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from baton.core.types import Request
from baton.decode.peer import Peer
from baton.protocol import pods

ANSWER_S = 30.0
"""A writer that lives has ended an attempt this long after its deadline; its own bound is 6 s, and to drop it
fails whatever else it computes for us."""
STALL_S = 0.5
"""Who looks at the time later than this after it was due may have stood still, its ranks with it: then they
get as long again to take in what came meanwhile."""


@dataclass(slots=True)
class Try:
    """One attempt at one request's hand-over."""

    request: Request
    attempt: str
    peer: Peer
    worker: str
    """The peer's incarnation that is asked."""
    deadline: float
    """By the loop's clock; counts from when its writer is asked, and is told to it as a duration."""
    prefer: tuple[str, ...]
    tried: tuple[Peer, ...]
    """Peers that were asked before."""
    lender: str
    """The pod whose pool holds most of the prompt's prefix, as far as the router knew."""
    trace: str
    """The request's `traceparent`, which its writer is given."""
    due: float | None = None
    """When the request's answer is of no use any more; the deadline is never later."""
    asked_at: float = 0.0
    """When the peer was asked; 0 before."""
    pages: int = 0
    moved_s: float | None = None
    """How long its pages were on their way, once its writer has said so."""
    landed: bool = False
    lapsing: bool = False
    """Its writer was taken for lost: nothing of it can land once its leave to write has lapsed."""
    given_up: bool = False
    """Another attempt, or this pod itself, has taken over; only its end is awaited."""


class Attempts:
    def __init__(self, over: Callable[[str], None]) -> None:
        """`over`: is told of attempts that nothing can land of any more."""
        self.answer_s = ANSWER_S
        self.open: dict[str, Try] = {}
        """By attempt, until its end is known."""
        self._over = over

    def uses(self, peer: Peer) -> bool:
        """Whether one with it is under way."""
        return any(one.peer is peer and not one.given_up for one in self.open.values())

    def counts(self) -> Counter[int]:
        """How many each peer (by its `id`) has open."""
        return Counter(id(one.peer) for one in self.open.values())

    def of(self, peer: Peer, attempt: str) -> Try | None:
        """The attempt, if this peer was asked for it."""
        one = self.open.get(attempt)
        return one if one is not None and one.peer is peer else None

    def waits_for(self, one: Try) -> bool:
        """Whether its pages are still to come, as far as is known here."""
        return self.open.get(one.attempt) is one and not one.landed

    def asked_of(self, worker: str) -> list[Try]:
        """What that incarnation was asked for and has not written."""
        return [one for one in self.open.values() if one.worker == worker and one.asked_at and not one.landed]

    def over(self, attempt: str) -> None:
        """Nothing of it can land any more. Idempotent."""
        if self.open.pop(attempt, None) is not None:
            self._over(attempt)

    def stop(self, one: Try) -> None:
        """Its writer need not go on."""
        if one.peer.worker == one.worker:
            one.peer.send(pods.AbortLeg(one.attempt))

    def await_end(self, one: Try) -> None:
        """Until its writer says that it has ended, or has no leave to write any more."""
        if one.peer.worker != one.worker:
            self.await_lapse(one)
            return
        wait = max(0.0, one.deadline - time.monotonic()) + self.answer_s
        asyncio.get_running_loop().call_later(wait, self._unanswered, one)

    def _unanswered(self, one: Try) -> None:
        """It has leave to write for as long as it is believed to be well: so that ends."""
        if self.open.get(one.attempt) is one and not one.lapsing and one.peer.worker == one.worker:
            one.peer.drop(f"it has not ended attempt {one.attempt} in time")

    def await_lapse(self, one: Try) -> None:
        """Its writer is taken for lost. Once is enough."""
        if one.lapsing:
            return
        one.lapsing = True
        now = time.monotonic()
        due = max(now, max(one.asked_at, one.peer.permitted_at) + pods.LAPSE_S)
        asyncio.get_running_loop().call_later(due - now, self._lapsed, one, due)

    def _lapsed(self, one: Try, due: float) -> None:
        if time.monotonic() - due < STALL_S:
            self.over(one.attempt)
        else:
            asyncio.get_running_loop().call_later(STALL_S, self._lapsed, one, time.monotonic() + STALL_S)

    def __repr__(self) -> str:
        lapsing = sum(one.lapsing for one in self.open.values())
        return f"<Attempts {len(self.open)} open, {lapsing} of lost writers>"
