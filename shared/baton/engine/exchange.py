"""Rank 0's book of hand-overs: what all ranks together have sent and received.

A chunk has moved when every rank's share of it has ended; an attempt has landed when it has on every
rank. Turns what the engine decides into commands for all ranks, and their reports into news for the
engine. Synchronous; the loop of rank 0 owns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from baton.engine.intake import Reserved
from baton.engine.legs import Ended, Push
from baton.engine.loop import Engine
from baton.engine.sequence import NEVER, Leg
from baton.protocol import engine as wire

Command = Callable[[wire.ToRank], None]
"""Gives a command to every rank, this one included, in order with the steps."""


def due_of(message: wire.Submit | wire.Ask) -> float:
    return NEVER if message.deadline is None else message.deadline


class Exchange:
    def __init__(self, engine: Engine, size: int, command: Command) -> None:
        self.engine = engine
        self.size = size
        self.command = command
        self.landed: list[str] = []
        self.paths: list[wire.Path] = []
        self.lost: list[str] = []
        self._sending: dict[tuple[str, int], list[wire.Sent]] = {}
        """Chunk → what each rank that has ended its share said."""
        self._moving: dict[str, float] = {}
        """Leg computed here → seconds that its pages have been on their way."""
        self._arrived: dict[str, dict[int, wire.Arrived]] = {}
        """Attempt → the last word of each rank."""
        self._writers: dict[str, tuple[str, float]] = {}
        """Attempt asked for here → who writes, and how long it may take."""
        self._deadlines: dict[str, float] = {}
        """Leg computed here → when its pushes must have been posted."""

    # ---- what the front asks ----

    def ask(self, message: wire.Ask) -> None:
        self._writers[message.attempt] = (message.worker, message.timeout_s)
        self.engine.intake.ask(message.request, message.attempt, message.local_below, due_of(message))

    def retry(self, message: wire.Retry) -> None:
        self._writers[message.attempt] = (message.worker, message.timeout_s)
        self.engine.intake.retry(message.id, message.attempt)

    def run_leg(self, message: wire.RunLeg) -> None:
        leg = Leg(message.request.id, message.worker, message.first, message.pages)
        self.engine.legs.submit(message.request, leg, message.deadline)
        self._deadlines[leg.attempt] = message.deadline

    def abort_leg(self, attempt: str) -> bool:
        """End a leg; False when there is none of that name."""
        known = attempt in self.engine.scheduler.sequences
        self.engine.legs.abort(attempt)
        if known:
            self.command(wire.AbortLeg(attempt))
        return known

    def over(self, attempt: str) -> None:
        self.engine.intake.over(attempt)
        self.command(wire.Forget(attempt))
        self._arrived.pop(attempt, None)
        self._writers.pop(attempt, None)

    # ---- what the engine decides ----

    def reserved(self, reservations: Iterable[Reserved]) -> list[wire.Reservation]:
        """Let every rank listen for what is about to be asked for."""
        made = []
        for one in reservations:
            if one.attempt not in self._writers:
                continue  # it is over: nobody is to be asked for it any more
            worker, timeout_s = self._writers[one.attempt]
            self.command(wire.Expect(one.attempt, worker, timeout_s))
            made.append(wire.Reservation(one.id, one.attempt, one.first, one.pages, one.cached))
        return made

    def push(self, pushes: Iterable[Push]) -> None:
        for push in pushes:
            self._sending[push.attempt, push.chunk] = []
            self.command(
                wire.Send(
                    push.attempt, push.peer, push.chunk, push.last, push.pages, push.to, push.through,
                    self._deadlines.get(push.attempt, 0.0),
                )
            )  # fmt: skip

    # ---- what the ranks report ----

    def take(self, report: wire.FromRank) -> None:
        match report:
            case wire.Sent():
                self._take_sent(report)
            case wire.Arrived():
                self._take_arrived(report)
            case wire.Met(path=path):
                self.paths.append(path)
            case wire.Lost(worker=worker, reason=reason):
                self.lost.append(f"{worker} {reason}")
            case wire.Introduced() | wire.Taken():
                raise AssertionError(f"{type(report).__name__} is not about hand-overs")

    def _take_sent(self, report: wire.Sent) -> None:
        attempt, chunk = report.attempt, report.chunk
        said = self._sending[attempt, chunk]
        said.append(report)
        if len(said) == self.size:
            del self._sending[attempt, chunk]
            self._moving[attempt] = self._moving.get(attempt, 0.0) + max(one.seconds for one in said)
            self.engine.legs.moved(attempt, all(one.ok for one in said))

    def _take_arrived(self, report: wire.Arrived) -> None:
        attempt = report.attempt
        if attempt not in self._writers:
            return  # it is over: what was said before that is of no interest
        said = self._arrived.setdefault(attempt, {})
        said[report.rank] = report
        if len(said) < self.size:
            return
        if all(one.complete for one in said.values()):
            del self._arrived[attempt], self._writers[attempt]
            self.engine.intake.landed(attempt)
            self.landed.append(attempt)
        else:
            self.engine.intake.progress(attempt, min(one.pages for one in said.values()))

    def ended(self, legs: Iterable[Ended]) -> list[wire.LegEnd]:
        """These legs are over."""
        made = []
        for one in legs:
            self._deadlines.pop(one.attempt, None)
            made.append(wire.LegEnd(one.attempt, one.complete, self._moving.pop(one.attempt, 0.0)))
        return made

    def __repr__(self) -> str:
        return f"<Exchange {len(self._sending)} chunks on their way, {len(self._writers)} attempts asked for>"
