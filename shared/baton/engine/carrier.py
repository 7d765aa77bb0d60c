"""One rank's part in hand-overs: which heads go to whom, given to the rank's mover.

Every rank of a worker that hands pages over has one. Rank 0 says what is to be sent and expected; the
carrier turns that into orders for its own heads and says when its share has ended. Its answers come on
the mover's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from baton.core.errors import ProtocolMismatch
from baton.protocol import engine as wire
from baton.transfer import (
    Agent,
    Landed,
    Moved,
    Mover,
    MoverDied,
    Outcome,
    PeerDropped,
    PeerInfo,
    PoolLayout,
    Pull,
    Push,
    Quieted,
    RankPair,
    Report,
    Verdict,
    rank_pairs,
)

log = logging.getLogger("baton.carrier")

Tell = Callable[[wire.FromRank | wire.Fault], None]
"""Takes a report for rank 0, on the mover's thread."""


@dataclass(frozen=True, slots=True)
class Partner:
    """Another worker, as one rank sees it."""

    infos: tuple[PeerInfo, ...]
    pushes: tuple[RankPair, ...]
    """Where this rank's heads go."""
    sources: tuple[RankPair, ...]
    """Where this rank's heads come from."""
    guarded: bool
    """Written only while it permits it."""


@dataclass(slots=True)
class Share:
    """One chunk's orders, or one fetch's, of this rank that have not ended."""

    left: int
    read: bool = False
    """Of a fetch, not of a push."""
    ok: bool = True
    bytes: int = 0
    seconds: float = 0.0


class Carrier:
    def __init__(self, agent: Agent, layouts: Sequence[PoolLayout], tell: Tell) -> None:
        """`layouts`: of all ranks of this worker, in order."""
        self._agent = agent
        self._rank = agent.rank
        self._layouts = tuple(layouts)
        self._tell = tell
        self._partners: dict[str, Partner] = {}
        self._workers: dict[str, str] = {}
        """Incarnation of a partner's rank → worker."""
        self._shares: dict[tuple[str, int], Share] = {}
        self._lock = threading.Lock()
        """Of `_shares`, which both threads touch."""
        self._mover = Mover(agent, self._heard)
        self._mover.start()

    @property
    def info(self) -> bytes:
        """How this rank is reached."""
        return msgspec.msgpack.encode(self._agent.info())

    # ---- what rank 0 says ----

    def obey(self, command: wire.ToRank) -> None:
        match command:
            case wire.Meet():
                self._meet(command)
            case wire.Permit(worker=worker, until=until):
                self._permit(worker, until)
            case wire.Part(worker=worker):
                self._part(worker)
            case wire.Send():
                self._send(command)
            case wire.Read():
                self._read(command)
            case wire.Expect(attempt=attempt, worker=worker, timeout_s=timeout_s):
                self._expect(attempt, worker, timeout_s)
            case wire.Forget(attempt=attempt):
                self._mover.forget(attempt)
            case wire.AbortLeg(attempt=attempt):
                self._mover.cancel(attempt)
            case _:
                raise AssertionError(f"{command!r} is not for a carrier")

    def _meet(self, message: wire.Meet) -> None:
        worker = message.worker
        self._part(worker)
        try:
            infos = tuple(msgspec.msgpack.decode(data, type=PeerInfo) for data in message.ranks)
            theirs = [info.layout for info in infos]
            pushes = tuple(p for p in rank_pairs(self._layouts, theirs) if p.source == self._rank)
            sources = tuple(p for p in rank_pairs(theirs, self._layouts) if p.destination == self._rank)
        # What another pod says ends no engine.
        except (msgspec.MsgspecError, UnicodeDecodeError, ProtocolMismatch) as error:
            self._tell(wire.Lost(self._rank, worker, f"it cannot be met: {error}"))
            return
        self._partners[worker] = Partner(infos, pushes, sources, message.guarded)
        for other in sorted({p.destination for p in pushes} | {p.source for p in sources}):
            info = infos[other]
            self._workers[info.incarnation] = worker
            self._mover.add_peer(info).add_done_callback(lambda met, w=worker: self._met(w, met))  # type: ignore[misc]

    def _met(self, worker: str, met: Future[Verdict]) -> None:
        error = met.exception()
        if error is not None:
            self._tell(wire.Lost(self._rank, worker, f"{type(error).__name__}: {error}"))
            return
        verdict = met.result()
        measured = verdict.measured
        path = wire.Path(
            worker,
            self._rank,
            verdict.ok,
            verdict.message,
            measured.write_gbps,
            measured.read_gbps,
            verdict.transport,
        )
        self._tell(wire.Met(path))

    def _part(self, worker: str) -> None:
        partner = self._partners.pop(worker, None)
        for info in partner.infos if partner else ():
            if self._workers.pop(info.incarnation, None) is not None:
                self._mover.drop_peer(info.incarnation)

    def _permit(self, worker: str, until: float) -> None:
        partner = self._partners.get(worker)
        if partner is not None:
            for pair in partner.pushes:
                self._mover.permit(partner.infos[pair.destination].incarnation, until)

    def _send(self, order: wire.Send) -> None:
        partner = self._partners.get(order.worker)
        pairs = partner.pushes if partner else ()
        key = (order.attempt, order.chunk)
        if partner is None or not pairs:
            self._tell(wire.Sent(self._rank, *key, ok=partner is not None, bytes=0, seconds=0.0))
            return
        with self._lock:
            self._shares[key] = Share(len(pairs))
        left = max(0.0, order.deadline - time.monotonic())
        for pair in pairs:
            self._mover.move(
                Push(
                    attempt=order.attempt, chunk=order.chunk, last=order.last, through=order.through,
                    span=pair.span, peer=partner.infos[pair.destination].incarnation, local_pages=order.pages,
                    remote_pages=order.to, timeout_s=left, ready=self._written(), guarded=partner.guarded,
                )
            )  # fmt: skip

    def _read(self, order: wire.Read) -> None:
        partner = self._partners.get(order.worker)
        pairs = partner.sources if partner else ()
        if partner is None or not pairs:
            self._tell(wire.Taken(self._rank, order.fetch, ok=partner is not None))
            return
        with self._lock:
            self._shares[order.fetch, 0] = Share(len(pairs), read=True)
        for pair in pairs:
            self._mover.move(
                Pull(
                    attempt=order.fetch, chunk=0, last=True, span=pair.span,
                    peer=partner.infos[pair.source].incarnation, local_pages=order.pages,
                    remote_pages=order.theirs, timeout_s=order.timeout_s,
                )
            )  # fmt: skip

    def _written(self) -> Callable[[], bool] | None:
        """True once every step launched before now has ended on the device."""
        if self._agent.region.segment == "DRAM":
            return None  # a CPU's steps end before they are reported, and followers carry steps out in order
        import torch

        event = torch.cuda.Event()
        event.record()
        return event.query

    def _expect(self, attempt: str, worker: str, timeout_s: float) -> None:
        partner = self._partners.get(worker)
        if partner is None:
            return  # it has gone; the attempt will be ended by whoever asked for it
        sources = {partner.infos[p.source].incarnation: p.source for p in partner.sources}
        self._mover.expect(attempt, sources, timeout_s)

    # ---- what the mover says; on its thread ----

    def _heard(self, report: Report) -> None:
        match report:
            case Landed(attempt=attempt, pages=pages, complete=complete):
                self._tell(wire.Arrived(self._rank, attempt, pages, complete))
            case Moved(quiet=True):
                self._ended(report)
            case Quieted(attempt=attempt, chunk=chunk):
                self._down((attempt, chunk))
            case Moved():  # with bytes in flight: a Quieted follows
                with self._lock:
                    share = self._shares.get((report.attempt, report.chunk))
                    if share is not None:
                        share.ok = False
            case PeerDropped(asked=True):
                pass  # by `_part`; it may have been met again meanwhile
            case PeerDropped(peer=peer, reason=reason):
                worker = self._workers.pop(peer, None)
                if worker is not None:
                    self._tell(wire.Lost(self._rank, worker, reason))
            case MoverDied(reason=reason):
                self._tell(wire.Fault(self._rank, "worker_died", f"the mover's thread died: {reason}"))

    def _ended(self, moved: Moved) -> None:
        with self._lock:
            share = self._shares.get((moved.attempt, moved.chunk))
            if share is not None:
                share.ok &= moved.outcome is Outcome.DONE
                share.bytes += moved.bytes
                share.seconds = max(share.seconds, moved.seconds)
        if moved.outcome is not Outcome.DONE:
            log.warning(
                "transfer %s/%d: %s %s", moved.attempt, moved.chunk, moved.outcome.value, moved.reason
            )
        self._down((moved.attempt, moved.chunk))

    def _down(self, key: tuple[str, int]) -> None:
        with self._lock:
            share = self._shares.get(key)
            if share is None:
                return
            share.left -= 1
            if share.left:
                return
            del self._shares[key]
        if share.read:
            self._tell(wire.Taken(self._rank, key[0], share.ok))
            return
        self._tell(wire.Sent(self._rank, *key, ok=share.ok, bytes=share.bytes, seconds=share.seconds))

    def close(self) -> None:
        self._mover.close()

    def __repr__(self) -> str:
        return f"<Carrier rank {self._rank}: {len(self._partners)} partners, {self._mover!r}>"
