"""The desk where decode pods ask for prompts to be computed: `baton.protocol.pods`, the serving end.

One ZMQ ROUTER socket; each visitor is a decode worker that said hello. It turns their legs into the
worker's, and the worker's news into answers. A visitor that falls silent has its legs ended at once,
so that nothing is computed for nobody. It asks each visitor twice a second for leave to write, and the
engine's ranks write by that leave alone. Runs on the event loop; nothing here waits for the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from baton.core.errors import BatonError, ProtocolMismatch
from baton.engine.worker import Sink, Worker
from baton.lending import Lending
from baton.prefill.spans import LegSpans
from baton.protocol import engine as wire
from baton.protocol import pods
from baton.protocol.secret import secure
from baton.trace import SILENT, Tracing

log = logging.getLogger("baton.prefill")


@dataclass(slots=True)
class Visitor:
    """A decode worker."""

    worker: str
    identity: bytes
    """Its connection's name; another after it reconnected."""
    pod: str
    """What its pod is called, where it said so."""
    heard_at: float
    session: str
    """Of its last hello."""
    legs: set[str] = field(default_factory=set)
    """Attempts whose end has not been said."""


class LegDesk:
    def __init__(
        self,
        worker: Worker,
        hello: pods.Hello,
        address: str,
        secret: str = "",
        tracing: Tracing = SILENT,
    ) -> None:
        """`address`: where to bind, as ZMQ writes it."""
        self.worker = worker
        self.hello = hello
        self.draining = False
        self.measured: Callable[[str, wire.Path], None] = lambda pod, path: None
        """Is told of each path to a visitor's pod."""
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.IPV6, "[" in address)
        secure(self._socket, secret, server=True)
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._visitors: dict[str, Visitor] = {}
        self._known: dict[bytes, Visitor] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._reading: dict[str, asyncio.Task[None]] = {}
        """Legs that wait for a prefix which is being read, by attempt."""
        self._spans = LegSpans(tracing)
        self.lending = Lending(worker, self._send_to)
        worker.listener = self

    async def __aenter__(self) -> LegDesk:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_in_touch())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Visitors are told, so that nobody waits for silence; what they asked for is ended by the worker. If
        its ranks are no more, nothing of any leg can land."""
        for visitor in self._visitors.values():
            for attempt in visitor.legs if self.worker.gone else ():
                self._send(visitor.identity, pods.Ended(attempt, False, "the worker is gone"))
            self._send(visitor.identity, pods.Refused("this worker has left"))
        tasks = [*self._tasks, *self._reading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=500)

    @property
    def open(self) -> int:
        """Legs whose end has not been said."""
        return sum(len(visitor.legs) for visitor in self._visitors.values())

    @property
    def loans(self) -> int:
        """Prefixes that others are reading here."""
        return self.lending.loans

    @property
    def visitors(self) -> tuple[str, ...]:
        return tuple(self._visitors)

    def drain(self) -> None:
        """Take no new legs, and tell the visitors."""
        self.draining = True
        self._ping()

    def end_all(self) -> None:
        """Cut off every leg; the end of each is said when nothing of it can land any more."""
        for visitor in self._visitors.values():
            self._end_legs(visitor)

    def _end_legs(self, visitor: Visitor) -> None:
        for attempt in visitor.legs:
            self._stop_reading(attempt)
            self.worker.tell(wire.AbortLeg(attempt))

    # ---- what visitors say ----

    async def _listen(self) -> None:
        while True:
            identity, *parts = await self._socket.recv_multipart()
            try:
                self._take(identity, pods.read(b"".join(parts)))
            except ProtocolMismatch as error:
                log.warning("a message that cannot be read: %s", error)
                self._send(identity, pods.Refused(str(error)))
            except Exception as error:  # a mistake of ours: its sender asks elsewhere, others are heard
                log.exception("a message was not taken")
                self._send(identity, pods.Refused(f"it was not taken: {error!r}"))

    def _take(self, identity: bytes, message: pods.PodMessage) -> None:
        if isinstance(message, pods.Hello):
            self._welcome(identity, message)
            return
        visitor = self._known.get(identity)
        if visitor is None:
            self._send(identity, pods.Refused("say hello first"))
            return
        visitor.heard_at = time.monotonic()
        match message:
            case pods.Leg():
                self._begin(visitor, message)
            case pods.Borrow() | pods.Lent() | pods.Returned():
                self.lending.heard(visitor.worker, message)
            case pods.AbortLeg(attempt=attempt):
                self._stop_reading(attempt)
                self.worker.tell(wire.AbortLeg(attempt))
                visitor.legs.add(attempt)  # its end is said even if it never began
            case pods.Renewed(worker=worker, at=at):
                if worker == self.hello.worker:
                    self.worker.tell(wire.Permit(visitor.worker, at + pods.PERMIT_S))
            case pods.Refused():
                log.info("decode worker %s has left", visitor.worker)
                self._dismiss(visitor)
            case _:
                pass

    def _welcome(self, identity: bytes, hello: pods.Hello) -> None:
        reason = pods.unfit(self.hello, hello)
        if reason:
            log.error("decode worker %s is refused: %s", hello.worker, reason)
            self._send(identity, pods.Refused(reason))
            return
        visitor = self._visitors.get(hello.worker)
        if visitor is None:
            visitor = self._visitors[hello.worker] = Visitor(
                hello.worker, identity, hello.pod, time.monotonic(), hello.session
            )
            self.worker.tell(wire.Meet(hello.worker, hello.ranks, guarded=True))
            log.info("decode worker %s is here", hello.worker)
        elif _elsewhere(visitor, identity, hello):
            log.debug("%s knows this worker by another address, which it uses", hello.worker)
            return
        elif visitor.session != hello.session:
            # It had taken us for lost: it may have given the pages of these legs to others.
            self._end_legs(visitor)
        self._known.pop(visitor.identity, None)
        visitor.identity, visitor.heard_at, visitor.session = identity, time.monotonic(), hello.session
        self._known[identity] = visitor
        self._send(identity, msgspec.structs.replace(self.hello, session=hello.session))
        self._renew(visitor)

    def _begin(self, visitor: Visitor, leg: pods.Leg) -> None:
        if self.draining:
            told = pods.Ended(leg.attempt, False, "this prefill worker is draining", begun=False)
            self._send(visitor.identity, told)
            return
        visitor.legs.add(leg.attempt)
        self._spans.begin(leg, visitor.pod or visitor.worker)
        deadline = time.monotonic() + leg.timeout_s
        owner, pages = self._owner(visitor, leg)
        if owner and pages >= (self.lending.least(owner) or pages + 1):
            identities = leg.request.identities[:pages]
            reading = asyncio.create_task(self._read_and_run(visitor, leg, deadline, owner, identities))
            self._reading[leg.attempt] = reading
        else:
            self._run(visitor, leg, deadline)

    def _owner(self, visitor: Visitor, leg: pods.Leg) -> tuple[str, int]:
        """Whose pool may hold what this one lacks, and how many pages of the prompt: the pod that was named,
        or the visitor, which has all before those it wants."""
        for other in self._visitors.values():
            if leg.lender and other.pod == leg.lender:
                return other.worker, len(leg.request.identities)
        return visitor.worker, min(leg.first, len(leg.request.identities))

    async def _read_and_run(
        self, visitor: Visitor, leg: pods.Leg, deadline: float, owner: str, identities: Sequence[bytes]
    ) -> None:
        await self.lending.read(owner, identities)
        self._reading.pop(leg.attempt, None)
        self._run(visitor, leg, deadline)

    def _stop_reading(self, attempt: str) -> None:
        """The leg of this attempt will not be run."""
        reading = self._reading.pop(attempt, None)
        if reading is not None:
            reading.cancel()

    def _run(self, visitor: Visitor, leg: pods.Leg, deadline: float) -> None:
        request = replace(leg.request, id=leg.attempt)
        message = wire.RunLeg(request, visitor.worker, leg.first, leg.pages, deadline)
        try:
            self.worker.open_with(message, self._sink(visitor, leg.attempt))
        except BatonError as error:
            self._end(leg.attempt, False, str(error), code=error.code)

    def _sink(self, visitor: Visitor, attempt: str) -> Sink:
        def take(update: wire.Update) -> None:
            if update.error is not None:
                if not self.worker.ending:  # else a rank may still write: it is said when none lives
                    self._end(attempt, False, update.error, code=update.code or "")
            elif update.token is not None and attempt in visitor.legs:
                self._spans.first(attempt, update)
                scores, cached, now = update.scores or (), update.cached or 0, time.monotonic()
                marks = tuple((what, now - at) for what, at in update.course.marks) if update.course else ()
                first = pods.First(attempt, update.token, update.logprob, scores, cached, marks)
                self._send(visitor.identity, first)

        return take

    # ---- what the worker says ----

    def ended(self, end: wire.LegEnd) -> None:
        reason = "" if end.complete else "the leg was ended early"
        self._end(end.attempt, end.complete, reason, end.seconds)

    def _end(
        self, attempt: str, complete: bool, reason: str, seconds: float = 0.0, *, code: str = ""
    ) -> None:
        self._spans.end(attempt, reason, seconds)
        for visitor in self._visitors.values():
            if attempt in visitor.legs:
                visitor.legs.discard(attempt)
                self._send(visitor.identity, pods.Ended(attempt, complete, reason, seconds, code=code))

    def reserved(self, reservation: wire.Reservation) -> None: ...

    def landed(self, attempt: str) -> None: ...

    def met(self, path: wire.Path) -> None:
        level = logging.INFO if path.ok else logging.ERROR
        self.lending.met(path)
        visitor = self._visitors.get(path.worker)
        if visitor is not None and visitor.pod:
            self.measured(visitor.pod, path)
        log.log(level, "path to decode worker %s, rank %d: %s", path.worker, path.rank, path.message)

    def lost(self, worker: str, reason: str) -> None:
        log.warning("lost the path to decode worker %s: %s", worker, reason)
        visitor = self._visitors.get(worker)
        if visitor is not None:
            self._dismiss(visitor)
            self._send(visitor.identity, pods.Refused(f"the path broke: {reason}"))

    # ---- time ----

    async def _keep_in_touch(self) -> None:
        while True:
            await asyncio.sleep(pods.HEARTBEAT_S / 2)
            for visitor in list(self._visitors.values()):
                if time.monotonic() - visitor.heard_at > pods.SILENCE_S:
                    log.warning(
                        "decode worker %s fell silent; ending its %d legs", visitor.worker, len(visitor.legs)
                    )
                    self._dismiss(visitor)
                else:
                    self._renew(visitor)
            self._ping()

    def _renew(self, visitor: Visitor) -> None:
        """Ask for leave to write from now on."""
        self._send(visitor.identity, pods.Renew(self.hello.worker, time.monotonic()))

    def _ping(self) -> None:
        waiting = self.worker.load.waiting if self.worker.load else 0
        for visitor in self._visitors.values():
            self._send(visitor.identity, pods.Ping(waiting, self.draining))

    def _dismiss(self, visitor: Visitor) -> None:
        """End everything of a visitor; it is welcome again when it says hello."""
        for attempt in visitor.legs:
            self._spans.end(attempt, "the decode worker is gone")
        self._end_legs(visitor)
        self.lending.gone(visitor.worker)
        self.worker.tell(wire.Part(visitor.worker))
        self._visitors.pop(visitor.worker, None)
        self._known.pop(visitor.identity, None)

    def _send_to(self, worker: str, message: pods.Message) -> bool:
        visitor = self._visitors.get(worker)
        if visitor is not None:
            self._send(visitor.identity, message)
        return visitor is not None

    def _send(self, identity: bytes, message: pods.Message) -> None:
        """A visitor that has gone is noticed by its silence."""
        sent: Any = self._socket.send_multipart([identity, pods.encode(message)], zmq.NOBLOCK)
        if sent.done():
            sent.exception()  # seen: or asyncio would complain of it

    def __repr__(self) -> str:
        return f"<LegDesk {self.address}: {len(self._visitors)} visitors, {self.open} legs>"


def _elsewhere(visitor: Visitor, identity: bytes, hello: pods.Hello) -> bool:
    """Whether a visitor says hello by another way than the one it is heard on."""
    heard = time.monotonic() - visitor.heard_at <= pods.SILENCE_S
    other = identity != visitor.identity and pods.asker(hello.session) != pods.asker(visitor.session)
    return heard and other
