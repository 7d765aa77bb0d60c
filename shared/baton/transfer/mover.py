"""The thread that moves pages: takes orders, posts, polls, sends notes, and says what became of it.

One for each engine rank. The engine's loop calls the methods of `Mover`, which put a command into a
queue and return at once; only the thread touches the agent. Answers go to the `report` callable, on
the thread, which must neither block nor raise: `queue.SimpleQueue().put`, or a loop's
`call_soon_threadsafe`. Page fencing waits for `Moved.quiet`, `Quieted` and `Aborted`: none of them is
said before the bytes it speaks of can land no more.

Every look needs the interpreter's lock. A thread that computes in Python gives it up only every
`sys.getswitchinterval()`, 5 ms by default: an engine process wants that shorter.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from baton.core.errors import DeadlineExceeded, Draining, QueueFull, WorkerDied
from baton.transfer.agent import Agent
from baton.transfer.listening import Listening
from baton.transfer.meetings import Meetings
from baton.transfer.messages import PeerInfo
from baton.transfer.orders import (
    Counts,
    Limits,
    MoverDied,
    Order,
    Outcome,
    Pace,
    PeerDropped,
    Pull,
    Push,
    Report,
    Sources,
)
from baton.transfer.path import Verdict
from baton.transfer.traffic import Traffic

_log = logging.getLogger(__name__)
_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True, slots=True)
class _Cancel:
    attempt: str


@dataclass(frozen=True, slots=True)
class _Expect:
    attempt: str
    sources: Mapping[str, int]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class _Forget:
    attempt: str


@dataclass(frozen=True, slots=True)
class _Permit:
    peer: str
    until: float


@dataclass(frozen=True, slots=True)
class _AddPeer:
    info: PeerInfo
    answer: Future[Verdict]


@dataclass(frozen=True, slots=True)
class _DropPeer:
    peer: str
    reason: str
    answer: Future[None]


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Command = Order | _Cancel | _Expect | _Forget | _Permit | _AddPeer | _DropPeer | _Close


class Mover:
    def __init__(
        self,
        agent: Agent,
        report: Callable[[Report], None],
        *,
        limits: Limits | None = None,
        pace: Pace | None = None,
        transport_log: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the agent over: from `start` on nobody else may call it, and `close` closes it.

        `transport_log`: the file of `path.transport_log`, when the process was started with it.
        """
        self._limits = limits or Limits()
        self._pace = pace or Pace()
        self._agent = agent
        self._report = report
        self._clock = clock
        self._traffic = Traffic(agent, report, self._limits, clock)
        self._listening = Listening(report, clock)
        self._meetings = Meetings(agent, self._limits.path_s, transport_log, clock)
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._gate = threading.Lock()
        """Held while a command is put and while the thread stops taking them: none is lost between."""
        self._stopped = ""
        self._closing = False
        self._died: BaseException | None = None
        self._progress_at = clock()
        self._thread = threading.Thread(target=self._run, name="mover", daemon=True)

    def __repr__(self) -> str:
        return f"Mover({len(self._traffic)} orders, {len(self._listening)} expected, {self._agent!r})"

    # From any thread; nothing here waits for the transport.

    def start(self) -> None:
        self._thread.start()

    def move(self, order: Push | Pull) -> None:
        """Take an order; `Moved` will say how it ended. Raises `QueueFull`, `Draining` or `WorkerDied`."""
        if self._commands.qsize() + len(self._traffic) >= self._limits.orders:
            raise QueueFull(f"{self._limits.orders} transfers are under way")
        self._put(order)

    def cancel(self, attempt: str) -> None:
        """Post no more of this attempt, now or ever. `Aborted` says when nothing of it can land any more."""
        self._put(_Cancel(attempt))

    def expect(self, attempt: str, sources: Sources, timeout_s: float) -> None:
        """Report the notes of this attempt from these senders. Ask the senders to begin only after this."""
        self._put(_Expect(attempt, dict(sources), timeout_s))

    def forget(self, attempt: str) -> None:
        """Whatever still comes of this attempt is not reported."""
        self._put(_Forget(attempt))

    def permit(self, peer: str, until: float) -> None:
        """This peer may be written by guarded orders up to this moment of the clock; a later word counts, an
        earlier moment does not."""
        self._put(_Permit(peer, until))

    def add_peer(self, info: PeerInfo) -> Future[Verdict]:
        """Meet a peer and measure the path to it. Fails with `ProtocolMismatch`, `PeerLost` or
        `DeadlineExceeded`; the peer is unknown then. Orders need not wait for the answer."""
        answer: Future[Verdict] = Future()
        answer.set_running_or_notify_cancel()  # it cannot be cancelled: the thread may answer at any time
        self._put(_AddPeer(info, answer))
        return answer

    def drop_peer(self, incarnation: str, reason: str = "asked for") -> Future[None]:
        """Fail everything with this peer and close the connection. Done when nothing more is posted to it."""
        answer: Future[None] = Future()
        answer.set_running_or_notify_cancel()
        self._put(_DropPeer(incarnation, reason, answer))
        return answer

    def counts(self) -> Counts:
        traffic, listening = self._traffic, self._listening
        return Counts(
            taken=traffic.taken,
            under_way=len(traffic),
            ended=dict(traffic.ended),
            written=traffic.written,
            read=traffic.read,
            heard=listening.heard,
            stray=listening.stray,
        )

    def close(self, timeout_s: float = 10.0) -> None:
        """Cancel what is left, close the agent, end the thread. Idempotent."""
        if self._thread.ident is None:
            self._agent.close()
        elif self._thread.is_alive():
            self._commands.put(_Close())
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise DeadlineExceeded(f"the mover did not end within {timeout_s} s")

    def _put(self, command: _Command) -> None:
        with self._gate:
            if self._died is not None:
                raise WorkerDied(self._stopped) from self._died
            if self._stopped:
                raise Draining(self._stopped)
            self._commands.put(command)

    # Everything below runs on the thread.

    def _run(self) -> None:
        try:
            _wake_in_time()
            self._agent.bind_thread()
            while not self._closing:
                self._wait()
                self._look()
            self._stop("the mover is closing")
        except BaseException as error:
            _log.exception("the mover's thread died")
            self._died = error
            with contextlib.suppress(Exception):
                self._stop(f"the mover's thread died: {error}")
            self._report(MoverDied(str(error)))

    def _look(self) -> None:
        """One round: every note, order and meeting gets one look."""
        notes = self._agent.notes()
        # After the notes are fetched: whoever waited for `expect` before it let a sender begin has its
        # command in the queue by now.
        self._obey_all()
        for sender, data in notes:
            self._listening.hear(sender, data)
        moved = self._traffic.advance(self._drop)
        if self._meetings:
            self._meetings.advance(self._drop)
        if self._listening:
            self._listening.expire()
        if notes or moved:
            self._progress_at = self._clock()

    def _wait(self) -> None:
        """Sleep as long as may be, or until a command comes."""
        pause = self._pause()
        if pause == 0.0:
            time.sleep(0)  # lets the engine's thread have the interpreter
            return
        with contextlib.suppress(Empty):
            self._obey(self._commands.get(timeout=pause))

    def _obey_all(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._obey(self._commands.get_nowait())

    def _pause(self) -> float:
        pace = self._pace
        if not (self._traffic or self._listening or self._meetings):
            return pace.idle_s
        uneventful = self._clock() - self._progress_at
        if uneventful < pace.spin_s and (self._meetings or self._traffic.flying):
            return 0.0
        return min(max(uneventful * pace.share, pace.shortest_s), pace.longest_s)

    def _obey(self, command: _Command) -> None:
        self._progress_at = self._clock()
        match command:
            case Order():
                self._traffic.take(command)
            case _Cancel(attempt):
                self._traffic.cancel(attempt)
            case _Expect(attempt, sources, timeout_s):
                self._listening.expect(attempt, sources, timeout_s)
            case _Forget(attempt):
                self._listening.forget(attempt)
            case _Permit(peer, until):
                self._traffic.permit(peer, until)
            case _AddPeer(info, answer):
                self._meetings.begin(info, answer)
            case _DropPeer(peer, reason, answer):
                self._drop(peer, reason, asked=True)
                answer.set_result(None)
            case _Close():
                self._closing = True

    def _drop(self, incarnation: str, reason: str, *, asked: bool = False) -> None:
        """Close one peer's connection; its orders are reported lost, and quiet after a while."""
        known = incarnation in self._agent.peers
        self._meetings.forget(incarnation, reason)
        self._agent.drop_peer(incarnation)
        self._traffic.ground(incarnation, reason)
        if known:
            self._report(PeerDropped(incarnation, reason, asked))

    def _stop(self, reason: str) -> None:
        """Take no more commands, end everything that is left and say so, close the agent."""
        with self._gate:
            self._stopped = reason
        with contextlib.suppress(Empty):
            while True:
                self._refuse(self._commands.get_nowait(), reason)
        self._traffic.end(reason)
        for incarnation in self._agent.peers:
            self._drop(incarnation, reason)
        latest = self._clock() + 2 * self._limits.settle_s
        while self._traffic and self._clock() < latest:  # what was in flight settles: then its memory is free
            time.sleep(self._pace.longest_s)
            self._traffic.advance(self._drop)
        self._agent.close()

    def _refuse(self, command: _Command, reason: str) -> None:
        if isinstance(command, Order):
            self._traffic.refuse(command, Outcome.CANCELLED, reason)
        elif isinstance(command, _AddPeer | _DropPeer):
            command.answer.set_exception(Draining(reason))


def _wake_in_time() -> None:
    """Let this thread's timers fire when they are due: Linux may add 50 us to each otherwise."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
