"""Hand-overs seen from the decode pod, which owns the request: reserve → ask → landed → run.

`Handoffs` stands before the worker and serves requests as it does (`submit`, `abort`). It asks one of
its prefill peers to compute each prompt, takes in the first token and the landing, asks another peer
when one fails, and lets the worker compute the prompt itself when nobody else can.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from baton.core.errors import BatonError, DeadlineExceeded
from baton.core.ids import attempt_id
from baton.core.types import Finish, Request
from baton.decode.attempts import Attempts, Try
from baton.decode.choice import choose
from baton.decode.landings import HandoffMeters, Landing
from baton.decode.peer import Peer
from baton.decode.settings import HandoffSettings
from baton.decode.threshold import Threshold
from baton.decode.timeline import Timeline
from baton.engine.worker import Sink, Worker
from baton.lending import Lending
from baton.protocol import engine as wire
from baton.protocol import pods

log = logging.getLogger("baton.decode")

Measured = Callable[[str, wire.Path], None]
"""Takes a pod's id, empty where it is not known, and what a path to it gave."""

LANDING_S = 10.0
"""How long after a complete leg's end its last pages may take to be seen here."""


class Handoffs:
    def __init__(self, worker: Worker, peers: Sequence[Peer], settings: HandoffSettings) -> None:
        self.worker = worker
        self.peers = list(peers)
        self.settings = settings
        self.threshold = Threshold()
        self.timelines: dict[str, Timeline] = {}
        """Of open requests."""
        self.finished: Callable[[str, Timeline], None] = lambda id, timeline: None
        self.meters: HandoffMeters | None = None
        self.failures: dict[str, int] = {}
        """Attempts that failed, by reason."""
        self._observer: Measured = lambda pod, path: None
        self._paths: dict[str, list[tuple[str, wire.Path]]] = {}
        """Worker → pod and path, as measured."""
        self.attempts = Attempts(lambda attempt: worker.tell(wire.Over(attempt)))
        self._current: dict[str, Try] = {}
        """By request id, while the request is open and its prompt is computed elsewhere."""
        self._sinks: dict[str, Sink] = {}
        """Of open requests."""
        self._asked: dict[str, str] = {}
        """Attempt whose first token is awaited → request, while that is open."""
        self._landed: dict[str, Landing] = {}
        """By attempt: landings whose writer has not said how long they took."""
        self._reading: dict[str, asyncio.Task[None]] = {}
        """By request id: requests that wait for a prefix which is being read."""
        self.lending = Lending(worker, self._send_to)
        worker.listener = self
        for peer in self.peers:
            peer.owner = self

    # ---- peers that come and go ----

    def add(self, peer: Peer) -> None:
        """Before it is entered."""
        peer.owner = self
        self.peers.append(peer)

    def remove(self, peer: Peer) -> None:
        """After it was left."""
        self.peers.remove(peer)
        peer.owner = None

    def observe(self, measured: Measured) -> None:
        """Tell of each path to another pod that was measured, and of those to come."""
        self._observer = measured
        for paths in self._paths.values():
            for pod, path in paths:
                measured(pod, path)

    def uses(self, peer: Peer) -> bool:
        """Whether an attempt with it is under way."""
        return self.attempts.uses(peer)

    # ---- what the pod's front calls ----

    def submit(
        self,
        request: Request,
        sink: Sink,
        prefer: Sequence[str] | None = None,
        lender: str = "",
        trace: str = "",
        deadline: float | None = None,
    ) -> None:
        """Serve a request; as `baton.decode.front.Front.submit`."""
        self.timelines[request.id] = Timeline(time.monotonic())
        watched = self._sinks[request.id] = self._watched(request, sink)
        here = prefer is not None and not prefer
        peer = None if here else self._choose(prefer or ())
        if peer is None:
            if here or self.settings.allow_local:
                self._compute(request, watched, lender, deadline)
            else:
                watched(_unavailable(request.id))
            return
        one = self._try(request, peer, tuple(prefer or ()), (), lender, trace, deadline)
        timeout_s = one.deadline - time.monotonic()
        ask = wire.Ask(request, one.attempt, peer.worker, timeout_s, self.local_below, deadline)
        self.worker.open_with(ask, watched)

    def _compute(self, request: Request, sink: Sink, lender: str, deadline: float | None) -> None:
        """Compute a prompt here, once what a prefill pod holds of it has been read if that is worth it."""
        owner = next((peer.worker for peer in self.peers if lender and peer.pod == lender), "")
        if owner and 0 < self.lending.least(owner) <= len(request.identities):
            reading = self._read_and_compute(request, sink, owner, deadline)
            self._reading[request.id] = asyncio.create_task(reading)
        else:
            self.worker.submit(request, sink, deadline=deadline)

    async def _read_and_compute(
        self, request: Request, sink: Sink, owner: str, deadline: float | None
    ) -> None:
        await self.lending.read(owner, request.identities)
        self._reading.pop(request.id, None)
        if (timeline := self.timelines.get(request.id)) is not None:
            timeline.mark("prefix read")
        try:
            self.worker.submit(request, sink, deadline=deadline)
        except BatonError as error:
            finish = Finish.ERROR.value
            sink(wire.Update(request.id, finish=finish, error=str(error), code=error.code))

    def abort(self, id: str) -> None:
        """As `Worker.abort`: both pods stop working on it."""
        reading = self._reading.pop(id, None)
        if reading is not None:
            reading.cancel()
        self.worker.abort(id)
        self._close(id)

    @property
    def open(self) -> int:
        return self.worker.open + len(self._reading)

    @property
    def inflight(self) -> int:
        """Attempts whose end is not known."""
        return len(self.attempts.open)

    @property
    def unrecorded(self) -> int:
        """Landings whose writer has not said how long they took."""
        return len(self._landed)

    @property
    def local_below(self) -> int:
        """Uncached tokens below which this pod computes a prompt itself: as set, or as measured."""
        number = self.settings.local_below
        return number if isinstance(number, int) and number else self.threshold.local_below

    def _watched(self, request: Request, sink: Sink) -> Sink:
        tokens = len(request.token_ids) + len(request.generated)

        def take(update: wire.Update) -> None:
            if update.course is not None and "prefill started" in dict(update.course.marks):
                self._begun_here(request.id)
            timeline = self.timelines.get(request.id)
            if timeline is not None:
                if update.cached is not None and (seconds := timeline.computed_here(update)):
                    self.threshold.computed(tokens - update.cached, seconds)
                timeline.pass_on(update)
            if update.finish is not None:
                self._close(request.id)
            sink(update)

        return take

    def _begun_here(self, id: str) -> None:
        """This engine computes the prompt, by its own decision where nobody was asked."""
        one = self._current.get(id)
        if one is not None and not one.asked_at:
            del self._current[id]
            self.attempts.over(one.attempt)

    def _close(self, id: str) -> None:
        """A request is over here; its writer is told to stop if it still writes."""
        one = self._current.pop(id, None)
        if one is not None and not one.landed:
            one.given_up = True
            if one.asked_at:
                self.attempts.stop(one)
                self.attempts.await_end(one)
            else:
                self.attempts.over(one.attempt)  # nobody was asked, so nothing will land
        self._sinks.pop(id, None)
        timeline = self.timelines.pop(id, None)
        for attempt in [name for name, request in self._asked.items() if request == id]:
            del self._asked[attempt]
        if timeline is not None:
            self.finished(id, timeline)

    # ---- attempts ----

    def _choose(self, prefer: Sequence[str], tried: Sequence[Peer] = ()) -> Peer | None:
        return choose(self.peers, self.attempts.counts(), prefer, tried)

    def _try(
        self,
        request: Request,
        peer: Peer,
        prefer: tuple[str, ...],
        tried: tuple[Peer, ...],
        lender: str,
        trace: str,
        due: float | None,
    ) -> Try:
        deadline = self._deadline(due)
        one = Try(request, attempt_id(), peer, peer.worker, deadline, prefer, tried, lender, trace, due)
        self.attempts.open[one.attempt] = self._current[request.id] = one
        return one

    def _deadline(self, due: float | None) -> float:
        deadline = time.monotonic() + self.settings.timeout_s
        return deadline if due is None else min(deadline, due)

    def reserved(self, reservation: wire.Reservation) -> None:
        one = self.attempts.open.get(reservation.attempt)
        if one is None or one.given_up:
            self.worker.tell(wire.Over(reservation.attempt))  # nobody was asked, so nothing will land
            self.attempts.open.pop(reservation.attempt, None)
            return
        if one.peer.worker != one.worker or not one.peer.takes_work:
            # One that drains would refuse it; one that has gone cannot be asked.
            there = one.peer.ready and one.peer.worker == one.worker
            self._failed(one, "refused" if there else "peer_lost", over=True)
            return
        one.asked_at, one.pages = time.monotonic(), len(reservation.pages)
        one.deadline = self._deadline(one.due)  # it may have waited for its pages for long
        remaining = max(0.1, one.deadline - time.monotonic())
        first, pages = reservation.first, reservation.pages
        leg = pods.Leg(one.attempt, one.request, first, pages, remaining, one.lender, one.trace)
        one.peer.send(leg)
        self._mark(one, "asked")
        self._asked[one.attempt] = one.request.id
        asyncio.get_running_loop().call_later(remaining, self._overdue, one.attempt)

    def _overdue(self, attempt: str) -> None:
        # By its name: a timer outlives most attempts, and would keep each one's prompt in memory as long.
        one = self.attempts.open.get(attempt)
        if one is not None and self.attempts.waits_for(one) and not one.given_up:
            self.attempts.stop(one)
            self._failed(one, "deadline", over=False)

    def _failed(self, one: Try, reason: str, *, over: bool) -> None:
        """An attempt came to nothing: ask another peer, or compute the rest here. `over`: its writer has
        ended, so its pages can be written again at once."""
        self._count(reason)
        if over or one.moved_s is not None:
            self.attempts.over(one.attempt)
        else:
            self.attempts.await_end(one)
        if one.given_up or self._current.get(one.request.id) is not one:
            return
        one.given_up = True
        self._mark(one, f"failed: {reason}")
        if one.deadline == one.due and reason in ("too_late", "deadline"):
            self._end(one.request, _too_late(one.request.id))  # nobody could do it in time
            return
        tried = (*one.tried, one.peer)
        peer = self._choose(one.prefer, tried) if len(tried) < self.settings.tries else None
        if peer is not None:
            again = self._try(one.request, peer, one.prefer, tried, one.lender, one.trace, one.due)
            timeout_s = again.deadline - time.monotonic()
            self.worker.tell(wire.Retry(one.request.id, again.attempt, peer.worker, timeout_s))
            return
        del self._current[one.request.id]
        if self.settings.allow_local:
            self.worker.tell(wire.Local(one.request.id))
        else:
            self._end(one.request, _unavailable(one.request.id))

    def _end(self, request: Request, update: wire.Update) -> None:
        """Whoever asked is told how the request ended."""
        if (sink := self._sinks.get(request.id)) is not None:
            self.worker.abort(request.id)
            sink(update)

    def _count(self, reason: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1
        if self.meters is not None:
            self.meters.failures.labels(reason).inc()

    # ---- what peers say ----

    def heard(self, peer: Peer, message: pods.PodMessage) -> None:
        match message:
            case pods.First(attempt=attempt, token=token, logprob=logprob, scores=scores):
                self._begun(peer, message)
                # The pages may have landed before this came; the engine knows which attempts it awaits.
                self.worker.tell(wire.Began(attempt, token, logprob, scores))
            case pods.Ended():
                self._take_end(peer, message)
            case pods.Borrow() | pods.Lent() | pods.Returned():
                self.lending.heard(peer.worker, message)
            case _:
                pass

    def _take_end(self, peer: Peer, end: pods.Ended) -> None:
        one = self.attempts.of(peer, end.attempt)
        if one is None:
            landing = self._landed.pop(end.attempt, None)
            if landing is not None:
                self._record(landing, end.seconds)
        elif one.given_up:
            self.attempts.over(one.attempt)
        elif end.complete:
            one.moved_s = end.seconds
            asyncio.get_running_loop().call_later(LANDING_S, self._unseen, one)
        else:
            log.info("attempt %s ended early: %s", end.attempt, end.reason)
            late = end.code == DeadlineExceeded.code
            self._failed(one, "too_late" if late else "ended" if end.begun else "refused", over=True)

    def _send_to(self, worker: str, message: pods.Message) -> bool:
        for peer in self.peers:
            if peer.worker == worker:
                peer.send(message)
                return True
        return False

    def _begun(self, peer: Peer, first: pods.First) -> None:
        id = self._asked.pop(first.attempt, "")
        if timeline := self.timelines.get(id):
            timeline.prefill = peer.pod or peer.worker
            timeline.began_at(first.marks, first.cached)
        one = self._current.get(id)
        if one is not None and one.attempt == first.attempt and one.landed:
            del self._current[id]

    def _unsaid(self, one: Try) -> None:
        """Its pages are here and its first token was lost: that is computed again."""
        if one.landed and self._current.get(one.request.id) is one:
            log.warning("attempt %s has landed and its first token has not come", one.attempt)
            self._count("unsaid")
            self._asked.pop(one.attempt, None)
            del self._current[one.request.id]
            self.worker.tell(wire.Local(one.request.id))

    def _unseen(self, one: Try) -> None:
        if self.attempts.waits_for(one):
            log.error("attempt %s is complete at its writer and was never seen to land", one.attempt)
            self._failed(one, "unseen", over=True)

    def joined(self, peer: Peer, hello: pods.Hello) -> bool:
        if any(other.worker == hello.worker for other in self.peers if other is not peer):
            log.debug("%s leads to a worker that is known by another address", peer.address)
            return False
        log.info("prefill worker joined", extra={"pod": hello.pod, "worker": hello.worker})
        self.worker.tell(wire.Meet(hello.worker, hello.ranks))
        return True

    def gone(self, peer: Peer, worker: str, reason: str) -> None:
        """A peer fell silent, left, or came back as another incarnation."""
        log.info("prefill worker gone", extra={"pod": peer.pod, "worker": worker, "reason": reason})
        self.lending.gone(worker)
        self.worker.tell(wire.Part(worker))
        self._paths.pop(worker, None)
        if self.meters is not None:
            self.meters.parted(worker)
        for one in self.attempts.asked_of(worker):
            if one.given_up:
                self.attempts.await_lapse(one)
            else:
                self._failed(one, "peer_lost", over=False)
        for one in [t for t in self._current.values() if t.worker == worker]:
            self._unsaid(one)

    # ---- what the worker says ----

    def landed(self, attempt: str) -> None:
        one = self.attempts.open.pop(attempt, None)
        if one is not None:
            one.landed = True
            assert self.worker.facts is not None  # it has started
            facts, request = self.worker.facts, one.request
            bytes = one.pages * facts.page_bytes
            tokens = min(one.pages * facts.page_size, len(request.token_ids) + len(request.generated))
            waited = time.monotonic() - one.asked_at
            self.threshold.handed_over(tokens, waited)
            landing = Landing(request.id, one.peer.pod or one.worker, tokens, bytes, 0.0, waited)
            if one.moved_s is not None:
                self._record(landing, one.moved_s)
            else:  # its writer is about to say how long it took
                self._landed[attempt] = landing
                asyncio.get_running_loop().call_later(LANDING_S, self._landed.pop, attempt, None)
            if (timeline := self.timelines.get(request.id)) is not None:
                timeline.handed += bytes
            if self._current.get(request.id) is one:
                if attempt in self._asked:  # its first token is yet to come
                    asyncio.get_running_loop().call_later(LANDING_S, self._unsaid, one)
                else:
                    del self._current[request.id]

    def _record(self, landing: Landing, seconds: float) -> None:
        if self.meters is not None:
            self.meters.landed(replace(landing, seconds=seconds))

    def ended(self, end: wire.LegEnd) -> None: ...

    def met(self, path: wire.Path) -> None:
        self.lending.met(path)
        peer = next((peer for peer in self.peers if peer.worker == path.worker), None)
        if peer is not None:
            peer.met = True
            self._paths.setdefault(path.worker, []).append((peer.pod, path))
            self._observer(peer.pod, path)
            if self.meters is not None:
                self.meters.met(peer.pod, path)
        level = logging.INFO if path.ok else logging.ERROR
        log.log(level, "path to prefill worker %s, rank %d: %s", path.worker, path.rank, path.message)

    def lost(self, worker: str, reason: str) -> None:
        for peer in self.peers:
            if peer.worker == worker:
                log.warning("lost the path to prefill worker %s: %s", worker, reason)
                peer.drop(reason)

    def _mark(self, one: Try, what: str) -> None:
        timeline = self.timelines.get(one.request.id)
        if timeline is not None:
            timeline.mark(what)

    def __repr__(self) -> str:
        ready = sum(peer.ready for peer in self.peers)
        return f"<Handoffs {ready}/{len(self.peers)} peers ready, {len(self.attempts.open)} attempts open>"


def _unavailable(id: str) -> wire.Update:
    return wire.Update(
        id, finish=Finish.ERROR.value, error="no prefill worker is ready; try again later", code="unavailable"
    )


def _too_late(id: str) -> wire.Update:
    told = "no prefill worker can compute the prompt before the request's deadline"
    return wire.Update(id, finish=Finish.ERROR.value, error=told, code=DeadlineExceeded.code)
