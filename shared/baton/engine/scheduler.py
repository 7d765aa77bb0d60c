"""Decides what each step computes. Synchronous, torch-free, without I/O: rank 0 alone runs it.

The loop calls `next()` for a launch to carry out, and later `absorb()` with what came of it. With
overlap, `next()` is called again before the last launch was absorbed: the scheduler works with
lengths, which it knows ahead, and learns the tokens one step late. Rules that follow:

- a finished sequence may have one more step in flight; its pages stay until that has been absorbed;
- only settled pages (their step absorbed) enter the cache;
- retraction needs settled sequences, so `next()` returns None when a flight must be absorbed first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Listing
from math import inf

from baton.core.errors import DeadlineExceeded, InvalidField, OutOfPages, QueueFull
from baton.core.types import Finish, Request, TokenLogprob
from baton.engine.batch import Outcome
from baton.engine.constrained import Constrained
from baton.engine.filling import ahead_of, longest, surplus
from baton.engine.headroom import Headroom
from baton.engine.holdings import Holdings
from baton.engine.launch import Launch, Span, assemble, fresh_of
from baton.engine.limits import Limits, Mixing, check
from baton.engine.policy import LOOKED_AT, Policy, hopeless, victims
from baton.engine.sequence import NEVER, Leg, Sequence, Stage
from baton.grammar.matcher import Grammars
from baton.protocol.engine import Course, Update
from baton.sampling.fresh import Fresh

ALONE = 512
"""Tokens in a step beyond which it begins no further leg: a GPU is busy with them, and whoever waits for the
first of two prompts need not wait for the second."""
TOO_LATE = "its deadline cannot be met any more"


class Scheduler:
    def __init__(
        self, limits: Limits, holdings: Holdings, policy: Policy, now: Callable[[], float] = time.monotonic,
        grammars: Grammars | None = None,
    ) -> None:  # fmt: skip
        """`now`: the clock that marks are made by."""
        self.now = now
        self.constrained = Constrained(grammars)
        self.limits = limits
        self.holdings = holdings
        self.policy = policy
        self.headroom = Headroom()
        self.fastest: Callable[[], float] = lambda: 0.0
        """Prompt tokens a second at the best; 0 while that is not known."""
        self.arriving: Callable[[], int] = lambda: 0
        """Sequences that wait for room outside the queue."""
        self.waiting: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        self.running: list[Sequence] = []
        self.sequences: dict[str, Sequence] = {}
        """Everything not gone, by request id."""
        self.computing: dict[bytes, Sequence] = {}
        """Identities of uncached pages that an admitted prompt is computing."""
        self.retractions = 0
        self.updates: list[Update] = []
        self._settled: list[Sequence] = []
        self._rows = list(range(limits.max_running, 0, -1))
        self.steps = 0
        self._arrivals = 0
        self._fresh: dict[int, Fresh] = {}
        """By row, since a row may change hands again before a step is launched."""
        self._table: dict[tuple[int, int], int] = {}
        """(row, column) → page, to be written before the next step; the last word on a place counts."""

    # ---- what comes in ----

    def submit(self, request: Request, leg: Leg | None = None, due: float = NEVER) -> Sequence:
        """Queue a request; refuses what can never be served, or not by when it is `due`, and what there is no
        room to queue."""
        sequence = self.enlist(request, leg, due)
        self.waiting.append(sequence)
        return sequence

    def enlist(self, request: Request, leg: Leg | None = None, due: float = NEVER) -> Sequence:
        """Take a request in without queueing it: the caller says where it goes next."""
        if request.id in self.sequences:
            raise InvalidField("id", f"a request {request.id!r} is being served already")
        check(request, self.limits, self._pool_tokens)
        waiting = len(self.waiting) + self.arriving()
        if waiting >= self.limits.max_queued:
            raise QueueFull(
                f"{waiting} requests are waiting, the most that max_queued allows; try again later"
            )
        prompt, sampling = len(request.token_ids), request.sampling
        limit = self.limits.max_model_len
        if leg is not None:
            limit = prompt + len(request.generated) + 1
        elif sampling.max_tokens is not None:
            limit = min(limit, prompt + sampling.max_tokens)
        stops = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else self.limits.eos)
        sequence = Sequence(request, self._arrivals, limit, stops, leg, queued_at=self.now(), due=due)
        sequence.matcher = self.constrained.matcher(request)
        if hopeless(sequence, self.now(), self.fastest(), self._cached_tokens):
            raise DeadlineExceeded(TOO_LATE)
        self._arrivals += 1
        self.sequences[request.id] = sequence
        sequence.mark("queued", self.now())
        return sequence

    @property
    def _pool_tokens(self) -> int:
        return (self.holdings.allocator.total - 1) * self.holdings.page_size

    def abort(self, id: str, why: Finish = Finish.ABORT) -> None:
        """End a request wherever it is; unknown and finished ones are ignored."""
        sequence = self.sequences.get(id)
        if sequence is not None and sequence.finish is None:
            self._end(sequence, why)
            self.updates.append(Update(id, finish=why.value))

    # ---- the next step ----

    @property
    def idle(self) -> bool:
        return not self.sequences

    def next(self) -> Launch | None:
        """The next step, or None when there is none before a flight is absorbed or a mask is there."""
        self.constrained.prepare(self.running)
        if self.limits.mixing is Mixing.NEVER:
            spans, decodes = self._apart(self._budget)
        elif self.policy.gives_way:
            spans, decodes = self._filled(self.limits.lines)
        else:
            decodes = self._decodes()
            spans = self._prefills(max(self._budget - len(decodes), 1))
        if not spans and not decodes:
            return None
        return self._launch(spans, decodes)

    def _apart(self, budget: int) -> tuple[list[Span], list[Sequence]]:
        spans = self._prefills(budget)
        return spans, [] if spans else self._decodes()

    def _filled(self, lines: int) -> tuple[list[Span], list[Sequence]]:
        """A step of `lines`; of prompts alone while more of them waits than such steps have room for."""
        prompts = [*self.prefilling, *self.waiting]
        if not prompts:
            return [], self._decodes()
        wanting, _ = self._wanting()
        certain = self.limits.mixing is Mixing.KNOWN
        over = surplus(prompts, wanting, lines, self.limits.max_running, certain=certain)
        if over > lines:
            return self._apart(int(min(self._budget, over)))
        room = max(lines, len(wanting))
        spans = self._prefills(room, ahead_of(wanting))
        return spans, self._decodes(room - sum(span.tokens for span in spans), beside=spans)

    @property
    def _budget(self) -> int:
        return self.limits.prefill_budget or self._pool_tokens

    def _prefills(self, budget: int, ahead: Callable[[Sequence], int] = lambda prompt: 0) -> list[Span]:
        """`ahead`: lines of the budget that are not for this prompt."""
        spans: list[Span] = []
        for sequence in list(self.prefilling):
            if (room := budget - ahead(sequence)) <= 0:
                return spans
            spans.append(self._span(sequence, room))
            budget -= spans[-1].tokens
        if self.waiting and self._rows and budget > 0:
            for sequence in self.policy.order(self.waiting, self._cached_pages, self.now())[:LOOKED_AT]:
                if (room := budget - ahead(sequence)) <= 0 or not self._rows:
                    break
                if hopeless(sequence, self.now(), self.fastest(), self._cached_tokens):
                    self._refuse(sequence)
                    continue
                if sequence.leg is not None and self._budget - budget >= ALONE:
                    break
                if self.awaits_twin(sequence) or self.constrained.awaits_mask(sequence, len(self._rows)):
                    continue
                if not self._admit(sequence) and not self._admit_alone(sequence):
                    break
                spans.append(self._span(sequence, room))
                budget -= spans[-1].tokens
        return spans

    def _cached_tokens(self, sequence: Sequence) -> int:
        return self._cached_pages(sequence) * self.holdings.page_size

    def _refuse(self, sequence: Sequence) -> None:
        """Its deadline cannot be met: whoever can be served in time need not wait for it."""
        self._end(sequence, Finish.ERROR)
        code, finish = DeadlineExceeded.code, Finish.ERROR.value
        self.updates.append(Update(sequence.request.id, finish=finish, error=TOO_LATE, code=code))

    def _cached_pages(self, sequence: Sequence) -> int:
        size = self.holdings.page_size
        chain = sequence.identities_of(len(sequence.tokens) // size, size)
        return len(self.holdings.cache.match(chain).pages)

    def awaits_twin(self, sequence: Sequence) -> bool:
        """Whether an admitted prompt is computing this one's next uncached page: then it waits and shares."""
        if not self.computing or sequence.unscored:
            return False
        size = self.holdings.page_size
        chain = sequence.identities_of((len(sequence.tokens) - 1) // size, size)
        cached = len(self.holdings.cache.match(chain).pages)
        return cached < len(chain) and self.computing.get(chain[cached], sequence) is not sequence

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence its prompt's pages and a row, if that leaves room for the running ones."""
        tokens = len(sequence.tokens) + 1
        if sequence.prefix is not None:  # it holds something, if only its place in the cache
            more = self.holdings.pages_for(tokens) - len(sequence.pages)
            if not self.holdings.make_room(more):
                return False
            self.holdings.grow(sequence, more)
        elif not self.reserve(sequence, tokens):
            return False
        self.waiting.remove(sequence)
        self._seat(sequence, last=-1)
        sequence.mark("prefill started", self.now())
        sequence.stage = Stage.PREFILLING
        self.prefilling.append(sequence)
        if sequence.leg is not None:
            self._hold(sequence)
        return True

    def _admit_alone(self, sequence: Sequence) -> bool:
        """Where nothing runs, no page comes free by itself: others that wait give up what landed of them."""
        holders = [s for s in self.waiting if s.pages and not s.lent and s is not sequence]
        for other in victims(holders) if not self.running and not self.prefilling else []:
            self.retractions += 1
            self._requeue(other)
            if self._admit(sequence):
                return True
        return False

    def reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Lock what is cached of a sequence and give it pages for `tokens` in all, if that leaves room for
        the running ones; else it holds nothing and the answer is False."""
        holdings = self.holdings
        holdings.adopt(sequence)
        need = holdings.pages_for(tokens) - len(sequence.pages)
        if need + self.spare_pages([sequence]) > holdings.available or not holdings.make_room(need):
            holdings.release(sequence)
            return False
        holdings.grow(sequence, need)
        sequence.mark("reserved", self.now())
        if sequence.cached is None:
            sequence.cached = sequence.computed
        if holdings.cache.reuses:
            for page in self._uncached(sequence):
                self.computing[page] = sequence
        return True

    def spare_pages(self, joining: Listing[Sequence] = ()) -> int:
        """Pages that sequences in the engine, with those joining, are likely to need before any ends."""
        active = [*self.running, *self.prefilling]
        return self.holdings.pages_for(self.headroom.tokens([*active, *joining])) if active else 0

    def _uncached(self, sequence: Sequence) -> list[bytes]:
        size = self.holdings.page_size
        return sequence.identities_of(len(sequence.tokens) // size, size)[sequence.stored :]

    def _span(self, sequence: Sequence, budget: int) -> Span:
        start = sequence.computed
        tokens = min(len(sequence.tokens) - start, budget)
        return Span(sequence, start, tokens, start + tokens == len(sequence.tokens), sequence.unscored)

    def _decodes(self, most: float = inf, beside: Listing[Span] = ()) -> list[Sequence]:
        """Running sequences that want a token, those with the most left if not all; each with a page."""
        wanting, growing = self._wanting(most)
        if not growing:
            self.headroom.eased()
            return wanting
        if not self.holdings.make_room(len(growing)):
            if beside or any(s.inflight for s in self.sequences.values()):
                return []  # absorb first: only settled sequences can be retracted
            wanting, growing = self._retract()
        for sequence in growing:
            self.holdings.grow(sequence, 1)
            self._table_write(sequence, len(sequence.pages) - 1)
        return wanting

    def _wanting(self, most: float = inf) -> tuple[list[Sequence], list[Sequence]]:
        """Running sequences that want a token, and those among them that need a page for it."""
        size = self.holdings.page_size
        free = self.constrained.free
        wanting = longest([s for s in self.running if s.unfed and (s.matcher is None or free(s))], most)
        return wanting, [s for s in wanting if s.computed == len(s.pages) * size]

    def _retract(self) -> tuple[list[Sequence], list[Sequence]]:
        """Send sequences back to the queue until the others' next pages fit. Their tokens are kept.

        What transfers touch cannot be taken: if only that is left, nobody runs until they have ended. The
        last stays, unless who has arrived waits for its row, or the cache has other copies of its pages."""
        self.headroom.retracted()
        holders = [*self.running, *self.prefilling, *(s for s in self.waiting if s.pages)]
        found = victims(s for s in holders if not s.lent)
        arrived = any(s.stage is Stage.ARRIVING and s.pages and not s.lent for s in self.sequences.values())
        if found and not arrived and not self.holdings.doubled(found[-1]):
            found.pop()
        for sequence in found:
            self.retractions += 1
            self._requeue(sequence)
            wanting, growing = self._wanting()
            if self.holdings.make_room(len(growing)):
                return wanting, growing
        if len(self.sequences) == 1 and not self.holdings.awaits_pages:
            raise OutOfPages(f"one sequence alone does not fit: {self.holdings!r}")
        return [], []

    def _requeue(self, sequence: Sequence) -> None:
        sequence.mark("retracted", self.now())
        self.holdings.store(sequence)
        self._unlist(sequence)
        self._free(sequence)
        if not sequence.generated:
            sequence.scores = []
        self.queue(sequence)

    # ---- launching ----

    def _seat(self, sequence: Sequence, last: int) -> None:
        """Give the sequence a row and tell the runner what belongs there."""
        sequence.row = self._rows.pop()
        self._table_write(sequence, 0)
        self._fresh[sequence.row] = fresh_of(sequence, last)

    def _table_write(self, sequence: Sequence, first: int) -> None:
        for column in range(first, len(sequence.pages)):
            self._table[sequence.row, column] = sequence.pages[column]

    def _launch(self, spans: list[Span], decodes: list[Sequence]) -> Launch:
        masks = self.constrained.launched(spans, decodes)
        batch = assemble(self.steps, tuple(self._fresh.values()), self._table, spans, decodes, masks)
        self.steps += 1
        self._fresh = {}
        self._table = {}
        for span in spans:
            sequence = span.sequence
            sequence.computed += span.tokens
            sequence.inflight += 1
            if span.samples:
                sequence.pending += 1
                sequence.stage = Stage.RUNNING
                self.prefilling.remove(sequence)
                self.running.append(sequence)
        for sequence in decodes:
            sequence.computed += 1
            sequence.inflight += 1
            sequence.pending += 1
        return Launch(batch, tuple(spans), tuple(decodes))

    # ---- what came of it ----

    def absorb(self, launch: Launch, outcome: Outcome) -> None:
        """Take in a step's tokens; what is to be told ends up in `updates`."""
        self.constrained.landed(launch)
        tokens, logprobs = outcome.tokens.tolist(), outcome.logprobs
        at = scored = 0
        for span in launch.spans:
            sequence = span.sequence
            sequence.inflight -= 1
            sequence.settled = span.start + span.tokens
            if span.scores:
                sequence.scores += outcome.scores[scored]
                scored += 1
            if sequence.finish is None:
                self.settle_prompt(sequence)
            if span.samples:
                self._accept(sequence, tokens[at], logprobs[at] if logprobs else None, first=True)
                at += 1
            elif sequence.finish is not None:
                self._part(sequence)
            else:
                sequence.mark("chunk computed", self.now())
        for sequence in launch.decodes:
            sequence.inflight -= 1
            sequence.settled += 1
            self._accept(sequence, tokens[at], logprobs[at] if logprobs else None, first=False)
            at += 1

    def settle_prompt(self, sequence: Sequence) -> None:
        stored = sequence.stored
        self.holdings.store(sequence)
        for page in sequence.identities[stored : sequence.stored]:
            self.computing.pop(page, None)
        if sequence.leg is not None:
            self._hold(sequence)

    def _hold(self, sequence: Sequence) -> None:
        """Keep a sequence's pages, even if it ends now, until its owner has looked at what settled."""
        sequence.lent += 1
        self._settled.append(sequence)

    def take_settled(self) -> list[Sequence]:
        """Sequences with a leg whose pages have settled since the last call, in order, perhaps repeated;
        each entry is one `lent` that the caller takes over."""
        settled, self._settled = self._settled, []
        return settled

    def _accept(self, sequence: Sequence, token: int, logprob: TokenLogprob | None, first: bool) -> None:
        sequence.pending -= 1
        if sequence.finish is not None:
            self._part(sequence)
            return
        if sequence.leg is not None:
            sequence.stops = frozenset()  # whether the first token ends the sequence, its owner decides
        update = Update(sequence.request.id, token, logprob=logprob)
        if first and len(sequence.tokens) == sequence.given:
            update.cached = sequence.cached
            sequence.mark("first token", self.now())
            if sequence.unscored:
                update.scores = tuple(sequence.scores)
        finish = sequence.take(token)
        if finish is not None:
            update.finish = finish.value
            if finish is Finish.ERROR and sequence.matcher is not None:
                update.error, update.code, update.field = sequence.matcher.wrong, InvalidField.code, "grammar"
            self._end(sequence, finish)
        if sequence.marks:
            update.course, sequence.marks = Course(sequence.marks), []
        self.updates.append(update)

    # ---- sequences whose KV comes from elsewhere ----

    def begin(self, sequence: Sequence, token: int, logprob: TokenLogprob | None) -> None:
        """Take in the first token of an arriving sequence, ahead of its KV."""
        sequence.pending += 1
        self._accept(sequence, token, logprob, first=True)

    def enter(self, sequence: Sequence) -> bool:
        """Let an arrived sequence run, its KV complete and its first token known; False without a row."""
        if not self._rows:
            return False
        assert sequence.settled == len(sequence.tokens) - 1
        self._seat(sequence, last=sequence.tokens[-1])
        sequence.mark("merged", self.now())
        sequence.stage = Stage.RUNNING
        self.running.append(sequence)
        return True

    def queue(self, sequence: Sequence) -> None:
        """Let a sequence that came before be computed here; it keeps the pages it holds, and its place in the
        order of arrival."""
        sequence.stage = Stage.WAITING
        at = next((i for i, s in enumerate(self.waiting) if s.arrival > sequence.arrival), len(self.waiting))
        self.waiting.insert(at, sequence)

    # ---- leaving ----

    def _end(self, sequence: Sequence, why: Finish) -> None:
        sequence.finish = why
        if why is not Finish.ERROR:
            self.holdings.store(sequence)
        self._part(sequence)

    def _part(self, sequence: Sequence) -> None:
        """Take a finished sequence out of the lists; free what it holds once no step touches it."""
        self._unlist(sequence)
        sequence.stage = Stage.LEAVING
        self.settle_leaving(sequence)

    def settle_leaving(self, sequence: Sequence) -> None:
        """Free a finished sequence once nothing touches its pages."""
        if sequence.stage is Stage.LEAVING and not sequence.inflight and not sequence.lent:
            self._free(sequence)
            sequence.stage = Stage.GONE
            del self.sequences[sequence.request.id]

    def _unlist(self, sequence: Sequence) -> None:
        lists = {Stage.WAITING: self.waiting, Stage.PREFILLING: self.prefilling, Stage.RUNNING: self.running}
        if sequence.stage in lists:
            lists[sequence.stage].remove(sequence)

    def _free(self, sequence: Sequence) -> None:
        for page in sequence.identities[sequence.stored :]:
            if self.computing.get(page) is sequence:
                del self.computing[page]
        self.holdings.release(sequence)
        if sequence.row:
            self._rows.append(sequence.row)
            sequence.row = 0

    def check_integrity(self) -> None:
        """Raise AssertionError when pages or rows are lost or owned twice. For idle times and tests."""
        self.holdings.check_integrity(list(self.sequences.values()))
        held = [s.row for s in self.sequences.values() if s.row]
        assert sorted(held + self._rows) == list(range(1, self.limits.max_running + 1)), "a row was lost"
        if self.idle:
            assert not self.computing and self.holdings.cache.evictable == self.holdings.cache.pages

    def __repr__(self) -> str:
        return (
            f"<Scheduler step {self.steps}: {len(self.waiting)} waiting, {len(self.prefilling)} prefilling, "
            f"{len(self.running)} running; {self.holdings!r}>"
        )
