"""What is kept of one attempt at a hand-over. `Handoffs` owns them and is their only writer."""

from __future__ import annotations

from dataclasses import dataclass

from baton.core.types import Request
from baton.decode.peer import Peer


@dataclass(slots=True)
class Try:
    """One attempt at one request's hand-over."""

    request: Request
    attempt: str
    peer: Peer
    worker: str
    """The peer's incarnation that is asked."""
    deadline: float
    """By the loop's clock; for the writer nothing may be posted later."""
    prefer: tuple[str, ...]
    tried: tuple[Peer, ...]
    """Peers that were asked before."""
    lender: str
    """The pod whose pool holds most of the prompt's prefix, as far as the router knew."""
    trace: str
    """The request's `traceparent`, which its writer is given."""
    asked_at: float = 0.0
    """When the peer was asked; 0 before."""
    pages: int = 0
    moved_s: float | None = None
    """How long its pages were on their way, once its writer has said so."""
    landed: bool = False
    given_up: bool = False
    """Another attempt, or this pod itself, has taken over; only its end is awaited."""
