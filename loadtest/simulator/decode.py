"""A decode (or unified) pod in virtual time: reserves, asks a prefill pod or computes a prompt itself, and
decodes. A step that computes a prompt decodes nothing, as in the engine. Decode steps are not simulated
one by one: nothing happens between two turns of the batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from loadtest.simulator.events import Events
from loadtest.simulator.pool import Holding, Pool
from loadtest.simulator.prefill import Leg, PrefillPod, reading_s
from loadtest.simulator.timing import Timing
from loadtest.simulator.traces import PAGE
from loadtest.simulator.work import Rate, Work, pages_for

from baton.state.lease import WorkerLoad

BUDGET = 16_384
LONGEST_STEPS = 64
"""Decode steps that are taken for equally long."""


@dataclass(slots=True)
class Arrival:
    work: Work
    computer: PrefillPod | None
    gbps: float
    lender: Pool | None
    holding: Holding | None = None
    computed: int = 0


class DecodePod:
    role = "decode"

    def __init__(self, events: Events, timing: Timing, pool: Pool, slower: float) -> None:
        self.events = events
        self.timing = timing
        self.pool = pool
        self.slower = slower
        self.changed: Callable[[], None] = lambda: None
        self._arrivals: deque[Arrival] = deque()
        self._prefilling: list[Arrival] = []
        self._landed: list[Arrival] = []
        self._running: list[tuple[int, int, Arrival]] = []
        """(step after which it has all its tokens, order, what)."""
        self._context = 0
        self._steps = 0
        self._turn = 0
        """Grows with each turn: turns that were overtaken do nothing."""
        self._decoding: tuple[float, float, int] | None = None
        """When the decode steps under way began, how long one takes, how many they are."""
        self._computing = False
        self._rate = Rate()
        self._step_s = 0.0

    @property
    def load(self) -> WorkerLoad:
        return WorkerLoad(
            waiting=len(self._arrivals),
            running=len(self._running),
            prefilling=len(self._prefilling),
            pages_free=self.pool.free,
            pages_evictable=self.pool.cache.evictable,
            prefill_tokens_queued=sum(one.work.prompt - one.computed for one in self._prefilling),
            prefill_tokens_per_s=self._rate.value,
            decode_step_ms=self._step_s * 1000,
        )

    def submit(self, work: Work, computer: PrefillPod | None, gbps: float, lender: Pool | None) -> None:
        one = Arrival(work, computer, gbps, lender)
        wait_s = reading_s(self.pool, lender, work, gbps, self.timing) if computer is None else 0.0
        if wait_s:
            self.events.after(wait_s, lambda: self._read(one))
        else:
            self._arrive(one)

    def _read(self, one: Arrival) -> None:
        assert one.lender is not None
        chain = one.work.prompt_pages
        self.pool.take(chain[: one.lender.cached(chain)])
        self.changed()
        self._arrive(one)

    def _arrive(self, one: Arrival) -> None:
        self._arrivals.append(one)
        self._poke()

    def _poke(self) -> None:
        """Something wants the batch's attention: at the next step's end, or now when it is idle."""
        if self._computing:
            return
        if self._decoding is None:
            self._next()
            return
        began, step_s, steps = self._decoding
        done = min(steps, int((self.events.now - began) / step_s) + 1)
        self._decoding = (began, step_s, done)
        self._schedule(began + done * step_s)

    def _schedule(self, time: float) -> None:
        self._turn += 1
        turn = self._turn
        self.events.at(time, lambda: self._stepped() if turn == self._turn else None)

    def _stepped(self) -> None:
        """A turn's end: count what was decoded, end what has all its tokens."""
        if self._decoding is not None:
            _, _, steps = self._decoding
            self._steps += steps
            self._context += steps * len(self._running)
            self._decoding = None
            while self._running and self._running[0][0] <= self._steps:
                self._finish(heappop(self._running)[2])
        self._computing = False
        self._next()

    def _next(self) -> None:
        self._reserve()
        for one in self._landed:
            self._run(one)
        self._landed.clear()
        if self._prefilling:
            self._compute()
        elif self._running:
            step_s = self._step_s = self.slower * self.timing.step_s(self._context)
            steps = min(LONGEST_STEPS, self._running[0][0] - self._steps)
            self._decoding = (self.events.now, step_s, steps)
            self._schedule(self.events.now + steps * step_s)

    def _reserve(self) -> None:
        while self._arrivals:
            one = self._arrivals[0]
            work = one.work
            one.holding = self.pool.hold(work.prompt_pages, pages_for(work.prompt + work.output))
            if one.holding is None:
                return
            self._arrivals.popleft()
            one.computed = one.holding.cached * PAGE
            if one.computer is None:
                work.local, work.cached = True, one.computed
                self._prefilling.append(one)
            else:
                self._ask(one, one.computer)

    def _ask(self, one: Arrival, computer: PrefillPod) -> None:
        assert one.holding is not None
        lacking = pages_for(one.work.prompt) - one.holding.cached
        leg = Leg(
            one.work,
            lacking,
            one.gbps,
            first=lambda: self._first(one.work),
            landed=lambda: self._land(one),
            lender=one.lender,
        )
        self.events.after(self.timing.message_s, lambda: computer.submit(leg))

    def _first(self, work: Work) -> None:
        work.first_at = self.events.now + self.timing.message_s
        self.events.at(work.first_at, work.on_first)

    def _land(self, one: Arrival) -> None:
        self._landed.append(one)
        self._poke()

    def _compute(self) -> None:
        budget, spans = BUDGET, []
        for one in self._prefilling:
            if budget > 0:
                spans.append((one, min(budget, one.work.prompt - one.computed)))
                budget -= spans[-1][1]
        took = self.slower * self.timing.prefill_s([(tokens, one.computed) for one, tokens in spans])
        self._rate.add(sum(tokens for _, tokens in spans), took)
        for _, _, running in self._running:
            running.work.gap_s = max(running.work.gap_s, took)
        self._computing = True
        self.events.after(took, lambda: self._computed(spans))

    def _computed(self, spans: list[tuple[Arrival, int]]) -> None:
        for one, tokens in spans:
            one.computed += tokens
            if one.computed == one.work.prompt:
                self._prefilling.remove(one)
                self._first(one.work)
                self._run(one)
        self._computing = False
        self._next()

    def _run(self, one: Arrival) -> None:
        """Its prompt's KV is here: it decodes from the next step on."""
        assert one.holding is not None
        self.pool.store(one.holding, one.work.identities[: one.work.prompt // PAGE])
        self._context += one.work.prompt
        if one.work.output <= 1:
            self._finish(one)
            return
        self._turn += 1
        heappush(self._running, (self._steps + one.work.output - 1, self._turn, one))
        self.changed()

    def _finish(self, one: Arrival) -> None:
        assert one.holding is not None
        work = one.work
        self._context -= work.prompt + max(0, work.output - 1)
        self.pool.store(one.holding, work.identities[: (work.prompt + work.output - 1) // PAGE])
        self.pool.release(one.holding)
        self.changed()
        work.done_at = max(self.events.now, work.first_at)
        self.events.at(work.done_at + self.timing.message_s, work.on_done)
