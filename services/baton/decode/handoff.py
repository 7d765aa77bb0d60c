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
from dataclasses import dataclass, field

from baton.core.ids import attempt_id
from baton.core.types import Finish, Request
from baton.decode.landings import HandoffMeters
from baton.decode.peer import Peer
from baton.decode.settings import HandoffSettings
from baton.engine.worker import Sink, Worker
from baton.protocol import engine as wire
from baton.protocol import pods

log = logging.getLogger("baton.decode")

FENCE_S = 6.0
"""A write posted in time has landed or failed for good this long after its deadline (the mover's bound)."""
LANDING_S = 10.0
"""How long after a complete leg's end its last pages may take to be seen here."""


@dataclass(slots=True)
class Try:
    """One attempt at one request's hand-over."""

    request: Request
    attempt: str
    peer: Peer
    number: int
    deadline: float
    """By the loop's clock; for the writer nothing may be posted later."""
    asked_at: float = 0.0
    """When the peer was asked; 0 before."""
    pages: int = 0
    landed: bool = False
    given_up: bool = False
    """Another attempt, or this pod itself, has taken over; only its end is awaited."""


@dataclass(slots=True)
class Timeline:
    """When what happened to a request, in seconds since it came."""

    began: float
    marks: list[tuple[str, float]] = field(default_factory=list)

    def mark(self, what: str) -> None:
        self.marks.append((what, time.monotonic() - self.began))


class Handoffs:
    def __init__(self, worker: Worker, peers: Sequence[Peer], settings: HandoffSettings) -> None:
        self.worker = worker
        self.peers = list(peers)
        self.settings = settings
        self.timelines: dict[str, Timeline] = {}
        """Of open requests."""
        self.finished: Callable[[str, Timeline], None] = lambda id, timeline: None
        self.meters: HandoffMeters | None = None
        self.failures: dict[str, int] = {}
        """Attempts that failed, by reason."""
        self._tries: dict[str, Try] = {}
        """By attempt, until its end is known."""
        self._current: dict[str, Try] = {}
        """By request id, while the request is open and its prompt is computed elsewhere."""
        self._sinks: dict[str, Sink] = {}
        worker.listener = self
        for peer in self.peers:
            peer.owner = self

    # ---- what the pod's front calls ----

    def submit(self, request: Request, sink: Sink, prefer: Sequence[str] | None = None) -> None:
        """Serve a request; as `baton.decode.front.Front.submit`."""
        self.timelines[request.id] = Timeline(time.monotonic())
        watched = self._watched(request.id, sink)
        local = prefer is not None and not prefer
        peer = None if local else self._choose(())
        if peer is None:
            if local or self.settings.allow_local:
                self.worker.submit(request, watched)
            else:
                watched(_unavailable(request.id))
            return
        one = self._try(request, peer, 1)
        ask = wire.Ask(request, one.attempt, peer.worker, self.settings.timeout_s, self.settings.local_below)
        self.worker.open_with(ask, watched)

    def abort(self, id: str) -> None:
        """As `Worker.abort`: both pods stop working on it."""
        self.worker.abort(id)
        self._close(id)

    @property
    def open(self) -> int:
        return self.worker.open

    @property
    def inflight(self) -> int:
        """Attempts whose end is not known."""
        return len(self._tries)

    def _watched(self, id: str, sink: Sink) -> Sink:
        def take(update: wire.Update) -> None:
            if update.token is not None and (timeline := self.timelines.get(id)) and len(timeline.marks) < 16:
                timeline.mark("token")
            if update.finish is not None:
                self._close(id)
            sink(update)

        return take

    def _close(self, id: str) -> None:
        """A request is over here; its writer is told to stop if it still writes."""
        one = self._current.pop(id, None)
        if one is not None and not one.landed:
            one.given_up = True
            if one.asked_at:
                self._withdraw(one)
            else:
                del self._tries[one.attempt]
        timeline = self.timelines.pop(id, None)
        if timeline is not None:
            self.finished(id, timeline)

    # ---- attempts ----

    def _choose(self, tried: tuple[Peer, ...]) -> Peer | None:
        """The ready peer with the fewest attempts open, one not tried before if there is any."""
        ready = [peer for peer in self.peers if peer.ready]
        fresh = [peer for peer in ready if peer not in tried] or ready
        loads = {id(peer): 0 for peer in fresh}
        for one in self._tries.values():
            if id(one.peer) in loads:
                loads[id(one.peer)] += 1
        return min(fresh, key=lambda peer: loads[id(peer)] + peer.waiting, default=None)

    def _try(self, request: Request, peer: Peer, number: int) -> Try:
        deadline = time.monotonic() + self.settings.timeout_s
        one = Try(request, attempt_id(), peer, number, deadline)
        self._tries[one.attempt] = self._current[request.id] = one
        return one

    def reserved(self, reservation: wire.Reservation) -> None:
        one = self._tries.get(reservation.attempt)
        if one is None or one.given_up:
            self.worker.tell(wire.Over(reservation.attempt))  # nobody was asked, so nothing will land
            self._tries.pop(reservation.attempt, None)
            return
        self._mark(one, "reserved")
        if not one.peer.ready:
            self._failed(one, "peer_lost", over=True)
            return
        one.asked_at, one.pages = time.monotonic(), len(reservation.pages)
        remaining = max(0.1, one.deadline - time.monotonic())
        leg = pods.Leg(one.attempt, one.request, reservation.first, reservation.pages, remaining)
        one.peer.send(leg)
        asyncio.get_running_loop().call_later(remaining, self._overdue, one)

    def _overdue(self, one: Try) -> None:
        if self._tries.get(one.attempt) is one and not one.landed and not one.given_up:
            self._withdraw(one)
            self._failed(one, "deadline", over=False)

    def _withdraw(self, one: Try) -> None:
        """Tell a writer to stop. Its pages stay fenced until it says so, or cannot write any more."""
        if not one.asked_at:
            return
        if one.peer.ready:
            one.peer.send(pods.AbortLeg(one.attempt))
        self._lift_later(one)

    def _lift_later(self, one: Try) -> None:
        wait = max(0.0, one.deadline - time.monotonic()) + FENCE_S
        asyncio.get_running_loop().call_later(wait, self._over, one.attempt)

    def _over(self, attempt: str) -> None:
        if self._tries.pop(attempt, None) is not None:
            self.worker.tell(wire.Over(attempt))

    def _failed(self, one: Try, reason: str, *, over: bool) -> None:
        """An attempt came to nothing: ask another peer, or compute the rest here. `over`: its writer has
        ended, so its pages can be written again at once."""
        self.failures[reason] = self.failures.get(reason, 0) + 1
        if self.meters is not None:
            self.meters.failures.labels(reason).inc()
        if over:
            self._over(one.attempt)
        else:
            self._lift_later(one)
        if one.given_up or self._current.get(one.request.id) is not one:
            return
        one.given_up = True
        self._mark(one, f"failed: {reason}")
        peer = self._choose((one.peer,)) if one.number < self.settings.tries else None
        if peer is not None:
            again = self._try(one.request, peer, one.number + 1)
            self.worker.tell(wire.Retry(one.request.id, again.attempt, peer.worker))
        else:
            del self._current[one.request.id]
            self.worker.tell(wire.Local(one.request.id))

    # ---- what peers say ----

    def heard(self, peer: Peer, message: pods.PodMessage) -> None:
        match message:
            case pods.First(attempt=attempt, token=token, logprob=logprob, scores=scores):
                if attempt in self._tries:
                    self._mark(self._tries[attempt], "first token")
                # The pages may have landed before this came; the engine knows which attempts it awaits.
                self.worker.tell(wire.Began(attempt, token, logprob, scores))
            case pods.Ended(attempt=attempt, complete=True):
                one = self._tries.get(attempt)
                if one is not None and not one.landed:
                    asyncio.get_running_loop().call_later(LANDING_S, self._unseen, one)
            case pods.Ended(attempt=attempt, reason=reason):
                one = self._tries.get(attempt)
                if one is not None:
                    log.info("attempt %s ended early: %s", attempt, reason)
                    self._failed(one, "ended", over=True)
            case _:
                pass

    def _unseen(self, one: Try) -> None:
        if self._tries.get(one.attempt) is one and not one.landed:
            log.error("attempt %s is complete at its writer and was never seen to land", one.attempt)
            self._failed(one, "unseen", over=True)

    def joined(self, peer: Peer, hello: pods.Hello) -> None:
        self.worker.tell(wire.Meet(hello.worker, hello.ranks))

    def gone(self, peer: Peer, worker: str, reason: str) -> None:
        """A peer fell silent, or came back as another incarnation."""
        self.worker.tell(wire.Part(worker))
        for one in [t for t in self._tries.values() if t.peer is peer and t.asked_at and not t.landed]:
            self._failed(one, "peer_lost", over=False)

    # ---- what the worker says ----

    def landed(self, attempt: str) -> None:
        one = self._tries.pop(attempt, None)
        if one is not None:
            one.landed = True
            self._mark(one, "landed")
            if self.meters is not None and self.worker.facts is not None:
                self.meters.seconds.observe(time.monotonic() - one.asked_at)
                self.meters.bytes.inc(one.pages * self.worker.facts.page_bytes)
            if self._current.get(one.request.id) is one:
                del self._current[one.request.id]

    def ended(self, end: wire.LegEnd) -> None: ...

    def met(self, path: wire.Path) -> None:
        if self.meters is not None:
            self.meters.met(path)
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
        return f"<Handoffs {ready}/{len(self.peers)} peers ready, {len(self._tries)} attempts open>"


def _unavailable(id: str) -> wire.Update:
    return wire.Update(
        id, finish=Finish.ERROR.value, error="no prefill worker is ready; try again later", code="unavailable"
    )
