"""Decode legs: prompts whose KV another worker computes and writes into pages reserved here.

    ask → reserved → (first token, pages landed: in any order) → runs

The owner of arriving sequences on the decode side. It reserves before anybody computes, keeps what
has landed when an attempt fails, and quarantines pages that a lost writer might still write: a fenced
page is given to nobody until that attempt is known to be over. Synchronous and torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.core.types import Finish, Request, TokenLogprob
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import NEVER, Sequence, Stage


@dataclass(frozen=True, slots=True)
class Reserved:
    """Pages wait for the prompt's KV: ask a prefill worker to fill them."""

    id: str
    attempt: str
    first: int
    """Index of the first page of the prompt that is lacking here."""
    pages: tuple[int, ...]
    """Our pages for those from `first` on."""
    generations: tuple[int, ...]
    cached: int
    """Prompt tokens that were here already."""


@dataclass(slots=True)
class Arrival:
    """One arriving sequence."""

    sequence: Sequence
    attempt: str
    local_below: int
    """Uncached tokens below which the prompt is computed here instead; at once when nothing is lacking."""
    reserved: Reserved | None = None
    begun: bool = False
    """The first token has been taken in."""
    landed: bool = False


class Intake:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._arrivals: dict[str, Arrival] = {}
        """By request id, in order of arrival."""
        self._attempts: dict[str, Arrival] = {}
        """Attempts whose end is not known, whether anybody still wants them or not."""
        self._awaited: dict[str, Arrival] = {}
        """Attempt → the arrival that waits for it now; without those withdrawn."""
        self._fences: dict[str, list[int]] = {}
        """Attempt → pages that its writer may still write."""
        self._new: list[Reserved] = []

    # ---- from ask to reserved ----

    def ask(self, request: Request, attempt: str, local_below: int = 0, due: float = NEVER) -> None:
        """Take a request in; `reservations()` tells when its pages wait."""
        sequence = self.scheduler.enlist(request, due=due)
        sequence.stage = Stage.ARRIVING
        self._arrivals[request.id] = Arrival(sequence, attempt, local_below)

    def reservations(self) -> list[Reserved]:
        """Reserve for those that wait, first come first; call once before each step."""
        full = False
        for id, arrival in list(self._arrivals.items()):
            sequence = arrival.sequence
            if sequence.finish is not None:
                self._forget(id)
            elif arrival.reserved is None:
                if full or self.scheduler.awaits_twin(sequence):
                    continue
                full = not self.scheduler.reserve(sequence, sequence.given)
                if not full:
                    self._reserved(id, arrival)
            elif arrival.landed and arrival.begun and self.scheduler.enter(sequence):
                self._forget(id)
        made, self._new = self._new, []
        return made

    def _reserved(self, id: str, arrival: Arrival) -> None:
        sequence = arrival.sequence
        if sequence.given - sequence.computed <= max(arrival.local_below, 1):
            self.local(id)
            return
        size, allocator = self.scheduler.holdings.page_size, self.scheduler.holdings.allocator
        first = sequence.settled // size
        pages = tuple(sequence.pages[first:])
        generations = tuple(allocator.generation(page) for page in pages)
        arrival.reserved = Reserved(id, arrival.attempt, first, pages, generations, sequence.settled)
        self._attempts[arrival.attempt] = self._awaited[arrival.attempt] = arrival
        sequence.lent += 1
        self._new.append(arrival.reserved)

    def local(self, id: str) -> None:
        """Compute the rest of this prompt here, keeping what has landed."""
        arrival = self._arrivals.get(id)
        if arrival is None or arrival.sequence.finish is not None or (arrival.landed and arrival.begun):
            return
        self._withdraw(arrival)
        self._forget(id)
        sequence = arrival.sequence
        if sequence.computed >= len(sequence.tokens) or (sequence.unscored and sequence.computed):
            # All has landed but the first token, which was lost with its writer: the cache has the pages,
            # and as for any prompt that it holds, the last few tokens are computed again. So are all whose
            # scores would have come with that token.
            self.scheduler.holdings.release(sequence)
        self.scheduler.queue(sequence)

    def retry(self, id: str, attempt: str) -> None:
        """Ask again under a new name, keeping what has landed."""
        arrival = self._arrivals.get(id)
        if arrival is None or arrival.sequence.finish is not None:
            return
        self._withdraw(arrival)
        arrival.attempt, arrival.reserved, arrival.landed = attempt, None, False
        sequence = arrival.sequence
        missing = self.scheduler.holdings.pages_for(sequence.given) - len(sequence.pages)
        if self.scheduler.holdings.make_room(missing):
            self.scheduler.holdings.grow(sequence, missing)
            self._reserved(id, arrival)
        else:
            self.local(id)

    # ---- what the writer does ----

    def first_token(
        self, attempt: str, token: int, logprob: TokenLogprob | None, scores: tuple[TokenLogprob, ...]
    ) -> None:
        """The token sampled where the prompt was computed; stale attempts are ignored."""
        arrival = self._awaited.get(attempt)
        if arrival is None or arrival.begun:
            return
        arrival.begun = True
        arrival.sequence.scores = list(scores)
        self.scheduler.begin(arrival.sequence, token, logprob)

    def progress(self, attempt: str, pages: int) -> None:
        """The first `pages` of those reserved have landed, on every rank: they are kept if the attempt fails.

        At least a token is left to compute then, or nothing could be sampled."""
        arrival = self._awaited.get(attempt)
        if arrival is None or arrival.reserved is None:
            return
        size = self.scheduler.holdings.page_size
        sequence = arrival.sequence
        tokens = min(arrival.reserved.first + pages, (sequence.given - 1) // size) * size
        if tokens > sequence.settled:
            sequence.settled = sequence.computed = tokens
            sequence.mark("chunk landed", self.scheduler.now())
            self.scheduler.settle_prompt(sequence)

    def landed(self, attempt: str) -> None:
        """Every page of the attempt has landed: nothing of it will be written any more.

        They enter the cache even when the sequence has ended meanwhile."""
        arrival = self._attempts.get(attempt)
        if arrival is not None and arrival.reserved is not None and attempt not in self._fences:
            self._check_generations(arrival.reserved)
            arrival.landed = True
            sequence = arrival.sequence
            sequence.mark("landed", self.scheduler.now())
            sequence.settled = sequence.computed = sequence.given
            self.scheduler.settle_prompt(sequence)
        self.over(attempt)

    def over(self, attempt: str) -> None:
        """The attempt's writer has ended or is fenced off: its pages may be used again. Idempotent."""
        arrival = self._attempts.pop(attempt, None)
        fenced = self._fences.pop(attempt, None)
        if fenced is not None:
            self.scheduler.holdings.allocator.release_fence(fenced)
        elif arrival is not None:
            arrival.sequence.lent -= 1
            self.scheduler.settle_leaving(arrival.sequence)

    def _check_generations(self, reserved: Reserved) -> None:
        allocator = self.scheduler.holdings.allocator
        now = tuple(allocator.generation(page) for page in reserved.pages)
        assert now == reserved.generations, f"pages of attempt {reserved.attempt} changed hands while it ran"

    # ---- leaving ----

    def abort(self, id: str) -> str | None:
        """End an arriving request; the attempt to be aborted at its writer, if one is open."""
        arrival = self._arrivals.get(id)
        if arrival is None or arrival.sequence.finish is not None:
            return None  # its first token ended it: what it holds goes when the attempt is over
        open_attempt = arrival.attempt if arrival.attempt in self._attempts else None
        self._withdraw(arrival)
        self._forget(id)
        self.scheduler.abort(id, Finish.ABORT)
        return open_attempt

    def _withdraw(self, arrival: Arrival) -> None:
        """Take pages that have not landed away from the sequence; fence them while their writer may write."""
        self._awaited.pop(arrival.attempt, None)
        if arrival.attempt not in self._attempts:
            return
        sequence, holdings = arrival.sequence, self.scheduler.holdings
        keep = sequence.settled // holdings.page_size
        sequence.settled = sequence.computed = keep * holdings.page_size
        lost = sequence.pages[keep:]
        assert all(sequence.owned[keep:]), "a reserved page belonged to the cache"
        del sequence.pages[keep:], sequence.owned[keep:]
        holdings.allocator.fence(lost)
        self._fences[arrival.attempt] = lost
        sequence.lent -= 1

    def _forget(self, id: str) -> None:
        arrival = self._arrivals.pop(id)
        self._awaited.pop(arrival.attempt, None)

    @property
    def open(self) -> int:
        return len(self._arrivals)

    @property
    def waiting(self) -> int:
        """Arrivals for which there was no room yet."""
        return sum(one.reserved is None for one in self._arrivals.values())

    @property
    def attempts(self) -> tuple[str, ...]:
        """Attempts whose end is not known."""
        return tuple(self._attempts)

    def __repr__(self) -> str:
        waits = f"{len(self._attempts)} attempts open, {len(self._fences)} fenced"
        return f"<Intake {len(self._arrivals)} arriving, {waits}>"
