"""One simulated worker: listens, keeps a lease and events in Redis, and answers placed requests in its time.

Many fit one event loop. Workers that know each other as `Peers` compute prompts for one another when a
router says so. `faults` makes it misbehave; `received` and `aborted` tell what happened to it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec

from baton.core.errors import BatonError, Draining, Failed, OutOfPages, QueueFull, Refused
from baton.core.ids import incarnation_id
from baton.openai import error_body, error_event, status_of
from baton.protocol.placed import PATH, REFUSED_HEADER, Placed, read
from baton.state import EventWriter, LeaseKeeper, Link, StateSettings, WorkerLease, WorkerLoad
from baton.state.lease import layout_of
from baton.testing.simulated.cache import SimulatedCache
from baton.testing.simulated.serving import Line
from baton.testing.simulated.settings import SimulatedSettings
from baton.testing.simulated.work import Work

REVISE_S = 0.25


@dataclass(slots=True)
class Faults:
    """How it misbehaves from now on."""

    refuse: BatonError | None = None
    """Answers so, and does nothing."""
    break_after: int | None = None
    """Cuts the connection after so many tokens of an answer."""
    fail_after: int | None = None
    """Ends a stream with an error event after so many tokens."""
    silent: bool = False
    """Takes requests and never answers."""
    cut: bool = False
    """Cuts connections in the middle of an event."""
    slower: float = 1.0
    """Prompts take so many times longer than its lease says."""


@dataclass(slots=True)
class Peers:
    """Simulated workers of one process, by id."""

    workers: dict[str, SimulatedWorker] = field(default_factory=dict)


class SimulatedWorker:
    """`async with`. `kill` leaves as a killed process would."""

    def __init__(self, settings: SimulatedSettings, peers: Peers | None = None) -> None:
        self.settings = settings
        self.faults = Faults()
        self.received: deque[Placed] = deque(maxlen=1000)
        self.headers: deque[dict[bytes, bytes]] = deque(maxlen=1000)
        self.counts: Counter[str] = Counter()
        """requests, completed, aborted, refused, tokens."""
        self.cache = SimulatedCache(settings.pages)
        self.draining = False
        self._peers = peers or Peers()
        self._running: dict[Work, None] = {}
        self._waiting = 0
        self._lane_free_at = 0.0
        self._woken = asyncio.Event()
        self._lines: set[Line] = set()
        self._closed = False
        self._used = 0
        self._incarnation = incarnation_id()
        self._link: Link | None = None
        self._writer: EventWriter | None = None
        self._keeper: LeaseKeeper | None = None
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.port = settings.port

    def __repr__(self) -> str:
        return f"SimulatedWorker({self.settings.id}, port {self.port}, {len(self._running)} running)"

    # ---- life ----

    async def __aenter__(self) -> Self:
        settings, loop = self.settings, asyncio.get_running_loop()
        self._server = await loop.create_server(self._line, settings.host, settings.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        self._peers.workers[settings.id] = self
        if settings.state_url:
            state = StateSettings(url=settings.state_url, prefix=settings.state_prefix)
            self._link = link = await self._stack.enter_async_context(Link(state))
            self._writer = EventWriter(link, settings.id, self._incarnation, self._snapshot)
            await self._stack.enter_async_context(self._writer)
            self._keeper = LeaseKeeper(
                link, self.lease, events=self._sequence, heartbeat_s=settings.heartbeat_s,
                expiry_s=settings.expiry_s,
            )  # fmt: skip
            await self._stack.enter_async_context(self._keeper)
        self._tasks = [asyncio.create_task(self._step()), asyncio.create_task(self._revise())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        await self._close()

    async def kill(self) -> None:
        """Sockets reset, the lease left to expire."""
        self._stack.pop_all()
        if self._keeper is not None and self._writer is not None and self._link is not None:
            await self._keeper._rounds.close()
            await self._writer._rounds.close()
            await self._link.close()
        await self._close()

    async def _close(self) -> None:
        self._closed = True
        self._server.close()
        for line in tuple(self._lines):
            line.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._peers.workers.pop(self.settings.id, None)

    def drain(self) -> None:
        """Take no new work."""
        self.draining = True
        if self._keeper is not None:
            self._keeper.revise(draining=True)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def lease(self) -> WorkerLease:
        its = self.settings
        return WorkerLease(
            id=its.id, incarnation=self._incarnation, role=its.role, http=f"http://{its.host}:{self.port}",
            control=f"tcp://{its.host}:1", page_size=its.page_size, pages=its.pages, model=its.model,
            max_model_len=its.max_model_len, vocabulary=its.vocabulary, page_bytes=its.page_bytes,
            model_fingerprint=its.fingerprint, layout_fingerprint=layout_of(its.fingerprint, its.page_size),
            draining=self.draining, load=self.load(), events=self._sequence(),
        )  # fmt: skip

    def load(self) -> WorkerLoad:
        timing = self.settings.timing
        queued = max(0.0, self._lane_free_at - self._now()) * timing.prefill_tokens_per_s
        step = timing.step_s + timing.step_per_sequence_s * len(self._running)
        held = len(self.cache.held)
        return WorkerLoad(
            waiting=self._waiting, running=len(self._running),
            pages_free=max(0, self.settings.pages - held - self._used),
            pages_evictable=min(held, max(0, self.settings.pages - self._used)),
            prefill_tokens_queued=int(queued), prefill_tokens_per_s=timing.prefill_tokens_per_s,
            decode_step_ms=step * 1000,
        )  # fmt: skip

    def _sequence(self) -> int:
        return 0 if self._writer is None else self._writer.sequence

    async def _snapshot(self) -> Iterable[bytes]:
        return list(self.cache.held)

    async def _revise(self) -> None:
        while True:
            await asyncio.sleep(min(REVISE_S, self.settings.heartbeat_s))
            if self._keeper is not None:
                self._keeper.revise(load=self.load())

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # ---- requests ----

    def _line(self) -> Line:
        line = Line(self._asked, self._left)
        self._lines.add(line)
        if self._closed:
            line.abort()
        return line

    def _left(self, line: Line) -> None:
        self._lines.discard(line)
        if line.work is not None:
            self.counts["aborted"] += 1
            self._end(line.work)

    def _asked(self, line: Line) -> None:
        if line.path == PATH:
            try:
                self._take(line)
            except BatonError as error:
                self.counts["refused"] += 1
                refused = f"{REFUSED_HEADER}: {error.code}\r\n".encode()
                line.answer(status_of(error), error_body(error), refused if error.retryable else b"")
        elif line.path == "/lease":
            line.answer(200, msgspec.json.encode(self.lease))
        elif line.path in ("/livez", "/readyz"):
            line.answer(503 if self.draining and line.path == "/readyz" else 200, b"{}")
        else:
            line.answer(404, b"{}")

    def _take(self, line: Line) -> None:
        its = self.settings
        if self.faults.refuse is not None:
            raise self.faults.refuse
        if self.draining:
            raise Draining("this worker is leaving")
        if len(self._running) + self._waiting >= its.max_requests:
            raise QueueFull("too many requests")
        placed = read(line.body)
        if placed.layout not in ("", layout_of(its.fingerprint, its.page_size)):
            raise Refused("this worker serves another model")
        work = Work(line, placed, its.max_model_len, its.vocabulary)
        if wrong := work.wrong():
            line.answer(status_of(wrong), error_body(wrong))
            return
        if self._used + self._pages(work) > its.pages:
            raise OutOfPages("no page is left")
        self.counts["requests"] += 1
        self.received.append(placed)
        self.headers.append(line.headers)
        line.work = work
        self._used += self._pages(work)
        if self.faults.silent:
            return
        delay = self._prefill(work)
        if delay > 0:
            self._waiting += 1
            asyncio.get_running_loop().call_later(delay, self._begin, work)
        else:
            self._waiting += 1
            self._begin(work)

    def _pages(self, work: Work) -> int:
        size = self.settings.page_size
        return sum((len(run.request.token_ids) + run.last) // size for run in work.open)

    def _prefill(self, work: Work) -> float:
        """Seconds until the prompts are there; pages of them are stored where they were computed."""
        delay = 0.0
        for run in work.open:
            named = [self._peers.workers[id] for id in work.placed.prefill or () if id in self._peers.workers]
            computes = named[0] if named else self
            held = self.cache.match(run.request.identities)
            run.cached = max(held, computes.cache.match(run.request.identities)) * self.settings.page_size
            run.cached = min(run.cached, len(run.request.token_ids) - 1)
            delay = max(delay, computes.lane(len(run.request.token_ids) + run.told - run.cached))
            if computes is not self:
                bytes_moved = (len(run.request.identities) - held) * self.settings.page_bytes
                delay += bytes_moved / (self.settings.timing.gigabytes_per_s * 1e9 or float("inf"))
                computes.store(run.request.identities)
            self.store(run.request.identities)
        return delay

    def lane(self, tokens: int) -> float:
        """Queue a prompt: seconds until it is computed."""
        timing, now = self.settings.timing, self._now()
        rate = timing.prefill_tokens_per_s
        took = timing.prefill_s + (tokens / rate if rate else 0.0)
        self._lane_free_at = max(now, self._lane_free_at) + took * self.faults.slower
        return self._lane_free_at - now

    def store(self, identities: tuple[bytes, ...]) -> None:
        evicted, stored = self.cache.store(identities)
        if self._writer is not None and (evicted or stored):
            self._writer.append(evicted, stored)

    def _begin(self, work: Work) -> None:
        self._waiting -= 1
        if not work.line.open:
            return
        timing = self.settings.timing
        if work.placed.shape.stream:
            work.line.begin()
        elif not timing.step_s and self.faults.break_after is None:
            work.finish()
            self._completed(work)
            return
        self._running[work] = None
        self._woken.set()

    def _completed(self, work: Work) -> None:
        self.counts["completed"] += 1
        self._end(work)

    def _end(self, work: Work) -> None:
        self._running.pop(work, None)
        if work.line.work is work:
            work.line.work = None
            self._used -= sum((len(run.request.token_ids) + run.last) // self.settings.page_size
                              for run in work.runs if run.index not in work.placed.ended)  # fmt: skip

    # ---- decoding ----

    async def _step(self) -> None:
        timing = self.settings.timing
        while True:
            while not self._running:
                self._woken.clear()
                await self._woken.wait()
            began = self.counts["tokens"]
            await asyncio.sleep(timing.step_s + timing.step_per_sequence_s * len(self._running))
            for work in tuple(self._running):
                if not work.line.paused:
                    self._advance(work)
            if began == self.counts["tokens"] and not timing.step_s:
                await asyncio.sleep(0.001)  # nobody reads

    def _advance(self, work: Work) -> None:
        faults, before = self.faults, work.events
        if work.placed.shape.stream:
            work.step()
        else:
            for run in work.open:
                run.told += 1
                run.ended = run.told >= run.last
                work.events += 1
        self.counts["tokens"] += work.events - before
        if faults.break_after is not None and work.events >= faults.break_after:
            if faults.cut and work.placed.shape.stream:
                work.line.chunk(b"id: 0.99:1\ndata: {half an ev")
            work.line.abort()
        elif faults.fail_after is not None and work.events >= faults.fail_after:
            work.line.chunk(error_event(Failed("the engine died")))
            work.line.end()
            self._end(work)
        elif not work.open:
            work.finish()
            self._completed(work)
