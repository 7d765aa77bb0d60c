"""A prefill pod in virtual time: legs in the order they came, in steps of a budget, as the engine does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.simulator.events import Events
from loadtest.simulator.pool import Holding, Pool
from loadtest.simulator.timing import Timing
from loadtest.simulator.traces import PAGE
from loadtest.simulator.work import Rate, Work, pages_for

from baton.state.lease import WorkerLoad

BUDGET = 2048
READ_S = 0.002
"""Asking for a prefix and being lent it."""


@dataclass(slots=True)
class Leg:
    work: Work
    lacking: int
    """Pages that the decode pod lacks."""
    gbps: float
    first: Callable[[], None]
    """The first token is there."""
    landed: Callable[[], None]
    lender: Pool | None = None
    """Whose pages are read before, where that is more than is here."""
    holding: Holding | None = None
    computed: int = 0


class PrefillPod:
    role = "prefill"

    def __init__(self, events: Events, timing: Timing, pool: Pool, slower: float) -> None:
        self.events = events
        self.timing = timing
        self.pool = pool
        self.slower = slower
        self.lies = 1.0
        """What it says of its speed is so many times too good."""
        self.changed: Callable[[], None] = lambda: None
        """The cache has changed."""
        self._queue: deque[Leg] = deque()
        self._active: list[Leg] = []
        self._computing: dict[bytes, Leg] = {}
        self._stepping = False
        self._rate = Rate()

    @property
    def load(self) -> WorkerLoad:
        left = sum(leg.work.prompt - leg.computed for leg in self._active)
        return WorkerLoad(
            waiting=len(self._queue),
            prefilling=len(self._active),
            pages_free=self.pool.free,
            pages_evictable=self.pool.cache.evictable,
            prefill_tokens_queued=left + sum(leg.work.prompt for leg in self._queue),
            prefill_tokens_per_s=self._rate.value,
        )

    def submit(self, leg: Leg) -> None:
        wait_s = reading_s(self.pool, leg.lender, leg.work, leg.gbps, self.timing)
        if wait_s:
            self.events.after(wait_s, lambda: self._read(leg))
        else:
            self._enqueue(leg)

    def _read(self, leg: Leg) -> None:
        assert leg.lender is not None
        chain = leg.work.prompt_pages
        self.pool.take(chain[: leg.lender.cached(chain)])
        self.changed()
        self._enqueue(leg)

    def _enqueue(self, leg: Leg) -> None:
        self._queue.append(leg)
        self._step()

    def _step(self) -> None:
        if self._stepping:
            return
        spans = self._spans()
        if not spans:
            return
        self._stepping = True
        took = self.slower * self.timing.prefill_s([(tokens, leg.computed) for leg, tokens in spans])
        self._rate.add(sum(tokens for _, tokens in spans), took / self.lies)
        self.events.after(took, lambda: self._stepped(spans))

    def _spans(self) -> list[tuple[Leg, int]]:
        budget, spans = BUDGET, []
        for leg in self._active:
            if budget > 0:
                spans.append((leg, min(budget, leg.work.prompt - leg.computed)))
                budget -= spans[-1][1]
        for leg in list(self._queue):
            if budget <= 0:
                break
            if self._twin(leg):
                continue
            if not self._begin(leg):
                break
            spans.append((leg, min(budget, leg.work.prompt - leg.computed)))
            budget -= spans[-1][1]
        return spans

    def _twin(self, leg: Leg) -> bool:
        """Whether its next page is being computed: then it waits and shares."""
        if not self._computing:
            return False
        chain = leg.work.prompt_pages
        cached = self.pool.cached(chain)
        return cached < len(chain) and chain[cached] in self._computing

    def _begin(self, leg: Leg) -> bool:
        chain = leg.work.prompt_pages
        leg.holding = self.pool.hold(chain, pages_for(leg.work.prompt))
        if leg.holding is None:
            return False
        self._queue.remove(leg)
        self._active.append(leg)
        leg.computed = leg.work.cached = leg.holding.cached * PAGE
        self._computing.update(dict.fromkeys(chain[leg.holding.cached :], leg))
        return True

    def _stepped(self, spans: list[tuple[Leg, int]]) -> None:
        self._stepping = False
        for leg, tokens in spans:
            assert leg.holding is not None
            start = leg.holding.cached
            leg.computed += tokens
            chain = leg.work.identities[: leg.computed // PAGE]
            self.pool.store(leg.holding, chain)
            for identity in chain[start:]:
                self._computing.pop(identity, None)
            if leg.computed == leg.work.prompt:
                self._complete(leg, tokens)
        self.changed()
        self._step()

    def _complete(self, leg: Leg, tokens: int) -> None:
        self._active.remove(leg)
        pages = min(leg.lacking, pages_for(tokens) if leg.computed > tokens else leg.lacking)
        whole_s = self.timing.move_s(leg.lacking, leg.gbps)
        shown_s = max(self.timing.move_s(pages, leg.gbps), whole_s - (leg.work.prompt * self.timing.token_s))
        self.events.after(self.timing.message_s, leg.first)
        self.events.after(shown_s + self.timing.landing_s, lambda: self._landed(leg))

    def _landed(self, leg: Leg) -> None:
        assert leg.holding is not None
        self.pool.release(leg.holding)
        leg.landed()
        self._step()


def reading_s(pool: Pool, lender: Pool | None, work: Work, gbps: float, timing: Timing) -> float:
    """How long a prefix takes out of another pool; 0 when there is nothing to gain."""
    if lender is None:
        return 0.0
    chain = work.prompt_pages
    pages = lender.cached(chain) - pool.cached(chain)
    return READ_S + timing.move_s(pages, gbps) if pages > 0 else 0.0
