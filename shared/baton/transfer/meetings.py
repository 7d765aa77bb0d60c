"""First contacts: a peer is added, the path to it is measured, and whoever asked gets the verdict.

Runs on the mover's thread alone, a step at a time beside the transfers. A meeting has a deadline; a
peer that could not be met is dropped again.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from baton.core.errors import BatonError, DeadlineExceeded, PeerLost
from baton.transfer.agent import Agent
from baton.transfer.messages import PeerInfo
from baton.transfer.path import Measured, Verdict, judge, measure, transports

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Meeting:
    steps: Generator[None, None, Measured]
    answers: list[Future[Verdict]]
    deadline: float
    log_from: int
    """Size of the transport's log when it began."""


class Meetings:
    def __init__(
        self, agent: Agent, timeout_s: float, transport_log: Path | None, clock: Callable[[], float]
    ) -> None:
        self._agent = agent
        self._timeout_s = timeout_s
        self._log = transport_log
        self._clock = clock
        self._meetings: dict[str, _Meeting] = {}
        self._verdicts: dict[str, Verdict] = {}

    def __len__(self) -> int:
        return len(self._meetings)

    def begin(self, info: PeerInfo, answer: Future[Verdict]) -> None:
        try:
            self._agent.add_peer(info)
        except BatonError as error:
            answer.set_exception(error)
            return
        name = info.incarnation
        if name in self._verdicts:
            answer.set_result(self._verdicts[name])
            return
        if name not in self._meetings:
            steps = measure(self._agent, name)
            self._meetings[name] = _Meeting(steps, [], self._clock() + self._timeout_s, len(self._logged()))
        self._meetings[name].answers.append(answer)

    def advance(self, drop: Callable[[str, str], None]) -> None:
        """One step of every meeting; `drop` is called with a peer that could not be met and why."""
        for name, meeting in tuple(self._meetings.items()):
            try:
                if self._clock() >= meeting.deadline:
                    raise DeadlineExceeded(f"no path to {name[:8]} within {self._timeout_s} s")
                next(meeting.steps)
            except StopIteration as end:
                self._conclude(name, end.value)
            except BatonError as error:
                self._part(name, error)
                drop(name, str(error))

    def forget(self, name: str, reason: str) -> None:
        """The peer was dropped."""
        self._verdicts.pop(name, None)
        self._part(name, PeerLost(reason))

    def _conclude(self, name: str, measured: Measured) -> None:
        meeting = self._meetings.pop(name)
        theirs = self._agent.peer(name).info.place
        used = transports(self._logged()[meeting.log_from :])
        verdict = self._verdicts[name] = judge(self._agent.place, theirs, measured, used)
        (_log.info if verdict.ok else _log.warning)("peer %s: %s", name[:8], verdict.message)
        for answer in meeting.answers:
            answer.set_result(verdict)

    def _part(self, name: str, error: BatonError) -> None:
        meeting = self._meetings.pop(name, None)
        if meeting is not None:
            meeting.steps.close()
            for answer in meeting.answers:
                answer.set_exception(error)

    def _logged(self) -> str:
        """What the transport has written down so far; its lines wait in a buffer of the C library."""
        if self._log is None:
            return ""
        try:
            ctypes.CDLL(None).fflush(None)
            return self._log.read_text(errors="replace")
        except OSError:
            return ""
