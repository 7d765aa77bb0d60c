"""One order on its way: cut into parts, posted a few at a time, polled until nothing is in flight.

Owned and driven by the mover's thread; knows the agent and the clock's reading it is given, nothing
of threads, queues or other orders. Two questions are kept apart: what became of the order (`outcome`)
and whether a byte of it may still land (`quiet`). A posted transfer cannot be called back, so an
order that is cancelled posts no more and lets what it posted run out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from baton.core.errors import Failed, PeerLost
from baton.transfer.agent import Agent, Transfer
from baton.transfer.layout import Indices, cut, in_runs
from baton.transfer.notes import Note, NoteKind, encode
from baton.transfer.orders import Limits, Moved, Order, Outcome, Push, Ready


class Flight:
    def __init__(
        self,
        order: Order,
        agent: Agent,
        limits: Limits,
        clock: Callable[[], float],
        permits: Mapping[str, float] | None = None,
    ) -> None:
        """Raises `PeerLost` or `ProtocolMismatch` for an order that can never be carried out. `permits`: peer
        → until when it may be written; None for an order that asks nobody."""
        self.order = order
        self.outcome: Outcome | None = None
        self.reason = ""
        self.bytes = 0
        self._agent = agent
        self._limits = limits
        self._clock = clock
        self._permits = permits
        self._push = isinstance(order, Push)
        self._ready = order.ready
        self._parts = self._cut()
        self._flying: list[Transfer] = []
        self._taken_at = clock()
        self._deadline = self._taken_at + order.timeout_s
        self._posted_at: float | None = None
        self._ended_at = 0.0
        self._settled_at: float | None = None

    def __repr__(self) -> str:
        state = self.outcome.value if self.outcome else f"{len(self._parts)} parts to post"
        return f"Flight({self.order.attempt}#{self.order.chunk}, {state}, {len(self._flying)} in flight)"

    def _cut(self) -> deque[tuple[Indices, Indices]]:
        order, limits = self.order, self._limits
        mine, theirs = self._agent.layout, self._agent.peer(order.peer).info.layout
        local, remote = in_runs(order.local_pages, order.remote_pages)
        parts = cut(
            local,
            remote,
            whole=order.span.heads == mine.kv_heads == theirs.kv_heads,
            page_bytes=order.span.heads * mine.head_bytes,
            descriptors=limits.part_descriptors,
            part_bytes=limits.part_bytes,
        )
        return deque((local[part], remote[part]) for part in parts)

    @property
    def waiting(self) -> bool:
        """For its pages to be written: nothing is posted yet."""
        return self._ready is not None and self.outcome is None

    @property
    def quiet(self) -> bool:
        """Nothing of it is in flight, nor settling after its peer was dropped."""
        return not self._flying and self._settled_at is None

    def overstayed(self) -> bool:
        """Ended long ago with bytes still in flight."""
        late = self._clock() > self._ended_at + self._limits.linger_s
        return bool(self._flying) and self.outcome is not None and late

    @property
    def _permitted(self) -> bool:
        return self._permits is None or self._clock() < self._permits.get(self.order.peer, float("-inf"))

    def lapsed(self) -> bool:
        """Bytes are in flight that its peer no longer permits."""
        return bool(self._flying) and not self._permitted

    def advance(self) -> bool:
        """One look: poll what flies, post what may be posted. True when something happened.

        Raises `PeerLost` when the connection broke; the caller then drops the peer.
        """
        if self._settled_at is not None and self._clock() >= self._settled_at:
            self._settled_at = None
            return True
        try:
            moved = self._poll()
            if self.outcome is None and self._clock() >= self._deadline:
                self.end(Outcome.TIMED_OUT, f"not done within {self.order.timeout_s} s")
                return True
            return self._go_on() or moved if self.outcome is None else moved
        except PeerLost:
            raise
        except Failed as error:
            self.end(Outcome.FAILED, str(error))
            return True

    def end(self, outcome: Outcome, reason: str = "") -> None:
        """Decide what became of it; only the first time counts. Nothing is posted after this."""
        if self.outcome is None:
            self.outcome, self.reason, self._ended_at = outcome, reason, self._clock()
            self._parts.clear()
            self._ready = None

    def ground(self, reason: str) -> None:
        """Its peer was dropped and its transfers released: what was in flight gets time to settle."""
        self.end(Outcome.PEER_LOST, reason)
        if self._flying:
            self._flying.clear()
            self._settle()

    def _settle(self) -> None:
        self._settled_at = self._clock() + self._limits.settle_s

    def moved(self) -> Moved:
        assert self.outcome is not None, "an order that goes on has no outcome"
        begin = self._ended_at if self._posted_at is None else self._posted_at
        return Moved(
            attempt=self.order.attempt,
            chunk=self.order.chunk,
            peer=self.order.peer,
            outcome=self.outcome,
            bytes=self.bytes,
            waited=begin - self._taken_at,
            seconds=self._ended_at - begin,
            quiet=self.quiet,
            reason=self.reason,
        )

    def _poll(self) -> bool:
        """Take what is done out of the air. A part that fails ends the order; the others run out."""
        moved = False
        for transfer in tuple(self._flying):
            try:
                done = self._agent.poll(transfer)
            except PeerLost:
                raise
            except Failed:
                self._flying.remove(transfer)
                self._settle()
                raise
            if done:
                self._flying.remove(transfer)
                self.bytes += transfer.bytes
                moved = True
        return moved

    def _go_on(self) -> bool:
        if self._ready is not None:
            if not self._is_ready(self._ready):
                return False
            self._ready = None
        if self._posted_at is None:
            self._posted_at = self._clock()
        if self._parts:
            return len(self._flying) < self._limits.window and self._permitted and self._post()
        if self._flying:
            return False
        self._agent.notify(self.order.peer, self._note())
        self.end(Outcome.DONE)
        return True

    def _is_ready(self, ready: Ready) -> bool:
        try:
            return ready()
        except Exception as error:  # a device fault surfaces here; it is this order's alone to report
            raise Failed(f"its pages cannot be had: {error}") from error

    def _post(self) -> bool:
        local, remote = self._parts.popleft()
        transfer = self._agent.make(self._push, self.order.peer, self.order.span, local, remote)
        try:
            self._agent.start(transfer)
        except Failed:
            self._settle()  # the transport may have taken some of its descriptors
            raise
        if transfer.done:
            self.bytes += transfer.bytes
        else:
            self._flying.append(transfer)
        return True

    def _note(self) -> bytes:
        kind = NoteKind.LANDED if self._push else NoteKind.TAKEN
        order = self.order
        return encode(Note(kind, order.attempt, self._agent.rank, order.chunk, order.last, order.through))
