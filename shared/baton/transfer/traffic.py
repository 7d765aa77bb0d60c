"""All orders of one mover: takes them, advances them, cancels them, and says what became of each.

Runs on the mover's thread alone. The rules that fencing rests on live here: `Moved` once for each
order, `Quieted` once for each that ended with bytes in flight, `Aborted` once for each cancel, when
no order of the attempt is left; a cancelled attempt stays cancelled for orders that come later.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

from baton.core.errors import BatonError, Cancelled, PeerLost
from baton.transfer.agent import Agent
from baton.transfer.flight import Flight
from baton.transfer.orders import Aborted, Limits, Moved, Order, Outcome, Push, Quieted, Report

_REFUSALS: dict[type[BatonError], Outcome] = {Cancelled: Outcome.CANCELLED, PeerLost: Outcome.PEER_LOST}


class Traffic:
    def __init__(
        self, agent: Agent, report: Callable[[Report], None], limits: Limits, clock: Callable[[], float]
    ) -> None:
        self.taken = 0
        self.ended: Counter[Outcome] = Counter()
        self.written = 0
        self.read = 0
        self._agent = agent
        self._report = report
        self._limits = limits
        self._clock = clock
        self._flights: list[Flight] = []
        self._said: set[Flight] = set()
        """Flights whose outcome is reported and whose last bytes are not."""
        self._retired: OrderedDict[str, None] = OrderedDict()
        self._aborting: set[str] = set()
        self._permits: dict[str, float] = {}
        """Peer → until when guarded orders may write there."""

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def flying(self) -> bool:
        """An order has something to post or to poll."""
        return any(flight.outcome is None and not flight.waiting for flight in self._flights)

    def take(self, order: Order) -> None:
        self.taken += 1
        try:
            if order.attempt in self._retired:
                raise Cancelled("its attempt was cancelled before it came")
            permits = self._permits if isinstance(order, Push) and order.guarded else None
            self._flights.append(Flight(order, self._agent, self._limits, self._clock, permits))
        except BatonError as error:
            self.refuse(order, _REFUSALS.get(type(error), Outcome.FAILED), str(error))

    def refuse(self, order: Order, outcome: Outcome, reason: str) -> None:
        """Report an order that never began."""
        self.ended[outcome] += 1
        self._report(
            Moved(
                attempt=order.attempt,
                chunk=order.chunk,
                peer=order.peer,
                outcome=outcome,
                bytes=0,
                waited=0.0,
                seconds=0.0,
                quiet=True,
                reason=reason,
            )
        )

    def advance(self, drop: Callable[[str, str], None]) -> bool:
        """One look at every order; `drop` is called with a peer that is lost and why."""
        moved = False
        for flight in tuple(self._flights):
            peer = flight.order.peer
            try:
                moved |= flight.advance()
            except PeerLost as error:
                drop(peer, str(error))
                moved = True
            if flight.lapsed():
                drop(peer, "it no longer permits to be written")
            if flight.overstayed():
                drop(peer, f"a transfer was still in flight {self._limits.linger_s} s after its order ended")
            self._speak(flight)
        return moved

    def cancel(self, attempt: str) -> None:
        self._retired[attempt] = None
        while len(self._retired) > self._limits.retired:
            self._retired.popitem(last=False)
        self._aborting.add(attempt)
        for flight in tuple(self._flights):
            if flight.order.attempt == attempt:
                flight.end(Outcome.CANCELLED)
                self._speak(flight)
        self._settle_abort(attempt)

    def permit(self, peer: str, until: float) -> None:
        self._permits[peer] = max(until, self._permits.get(peer, until))

    def ground(self, peer: str, reason: str) -> None:
        """A peer was dropped: its orders are lost, and what it permits is to be said anew."""
        self._permits.pop(peer, None)
        for flight in tuple(self._flights):
            if flight.order.peer == peer:
                flight.ground(reason)
                self._speak(flight)

    def end(self, reason: str) -> None:
        """The mover ends: so do all orders."""
        for flight in tuple(self._flights):
            flight.end(Outcome.CANCELLED, reason)
            self._speak(flight)

    def _speak(self, flight: Flight) -> None:
        """Report what is new about an order, and let it go when it is over."""
        if flight.outcome is None or flight not in self._flights:
            return
        order = flight.order
        if flight not in self._said:
            self._said.add(flight)
            self.ended[flight.outcome] += 1
            if isinstance(order, Push):
                self.written += flight.bytes
            else:
                self.read += flight.bytes
            self._report(flight.moved())
        elif flight.quiet:
            self._report(Quieted(order.attempt, order.chunk, order.peer))
        if flight.quiet:
            self._said.discard(flight)
            self._flights.remove(flight)
            self._settle_abort(order.attempt)

    def _settle_abort(self, attempt: str) -> None:
        if attempt in self._aborting and all(flight.order.attempt != attempt for flight in self._flights):
            self._aborting.discard(attempt)
            self._report(Aborted(attempt))
