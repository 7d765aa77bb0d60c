"""Prefill legs: prompts computed here for another worker, whose pages are pushed as they settle.

The owner of a leg's bookkeeping on the prefill side. It decides what to push and when a leg is over;
moving bytes is the transfer library's work, on its own thread. Synchronous and torch-free.

A leg ends when its sequence has ended and no push of it is in flight: only then can nothing of it land
any more, and only then is its end announced. The receiver frees its pages on that word.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass

from baton.core.types import Finish, Request
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import NEVER, Leg, Sequence


@dataclass(frozen=True, slots=True)
class Push:
    """Pages to write into the peer's pool, page for page."""

    attempt: str
    peer: str
    chunk: int
    last: bool
    """No chunk follows; one more may have the same pages as none at all."""
    pages: tuple[int, ...]
    to: tuple[int, ...]
    through: int
    """Pages that the peer asked for and that are sent with this chunk and those before it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of this attempt can land any more."""

    attempt: str
    complete: bool
    """Whether every page of the prompt has been written."""


class PrefillLegs:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._open: dict[str, Sequence] = {}
        """By attempt."""
        self._failed: set[str] = set()

    def submit(self, request: Request, leg: Leg, due: float = NEVER) -> None:
        """Queue a leg; refusals are the scheduler's."""
        sequence = self.scheduler.submit(request, leg, due)
        self._open[leg.attempt] = sequence

    def abort(self, attempt: str) -> None:
        """End a leg early. `Ended` follows, at once when it is unknown or nothing is in flight."""
        sequence = self._open.get(attempt)
        if sequence is not None:
            self._failed.add(attempt)
            self.scheduler.abort(sequence.request.id)

    def pushes(self) -> list[Push]:
        """What has settled since the last call and is to be sent now."""
        due = []
        for sequence in self.scheduler.take_settled():
            leg = sequence.leg
            assert leg is not None
            push = self._push(sequence, leg) if leg.attempt not in self._failed else None
            if push is not None:
                due.append(push)  # keeps the hold until it has moved
            else:
                sequence.lent -= 1
                self.scheduler.settle_leaving(sequence)
        return due

    def _push(self, sequence: Sequence, leg: Leg) -> Push | None:
        size = self.scheduler.holdings.page_size
        last = sequence.settled >= sequence.given
        ready = self.scheduler.holdings.pages_for(sequence.given) if last else sequence.settled // size
        first = max(leg.sent, leg.first)
        if leg.closed or (ready <= first and not last):
            return None
        push = Push(
            leg.attempt, leg.peer, leg.chunks, last,
            tuple(sequence.pages[first:ready]), leg.pages[first - leg.first : ready - leg.first],
            max(ready, first) - leg.first,
        )  # fmt: skip
        leg.sent, leg.chunks, leg.closed = max(ready, first), leg.chunks + 1, last
        return push

    def moved(self, attempt: str, ok: bool) -> None:
        """One push has come to its end: on every rank it has landed, or can no longer land."""
        sequence = self._open.get(attempt)
        assert sequence is not None and sequence.lent > 0, f"a push of {attempt} ended that was never begun"
        sequence.lent -= 1
        if not ok and attempt not in self._failed:
            self._failed.add(attempt)
            self.scheduler.abort(sequence.request.id, Finish.ERROR)
        self.scheduler.settle_leaving(sequence)

    def ended(self) -> list[Ended]:
        """Legs that are over since the last call."""
        over = [a for a, s in self._open.items() if s.finish is not None and not s.lent and not s.inflight]
        ends = []
        for attempt in over:
            leg = self._open.pop(attempt).leg
            assert leg is not None
            ends.append(Ended(attempt, complete=leg.closed and attempt not in self._failed))
            self._failed.discard(attempt)
        return ends

    @property
    def open(self) -> int:
        return len(self._open)

    def of_peer(self, peer: str) -> Listing[str]:
        """Attempts whose pages go to this peer."""
        return [a for a, s in self._open.items() if s.leg is not None and s.leg.peer == peer]
