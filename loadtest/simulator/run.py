"""One trace, one policy, one fleet: from the first arrival to the last token."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from loadtest.simulator.events import Events
from loadtest.simulator.fleet import Fleet, FleetShape
from loadtest.simulator.report import Summary, summary
from loadtest.simulator.routers import Routers
from loadtest.simulator.timing import Timing
from loadtest.simulator.traces import Session, Trace
from loadtest.simulator.work import Work

from baton.router.placement import POLICIES as PLACEMENTS
from baton.router.placement import PlacementSettings

PAUSE_S = 0.5
"""Between an answer's end and the next turn, when its time has passed."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A policy, and what is different about its fleet."""

    policy: str
    sighted: bool = False
    unified: bool = False


POLICIES: Mapping[str, Contestant] = {
    **{name: Contestant(name) for name in PLACEMENTS},
    "prefix, sighted": Contestant("prefix", sighted=True),
    "cost, unified pods": Contestant("cost", unified=True),
}
"""The real policies; one that goes where most is really cached, at once and whatever it costs; and the same
number of pods that all compute their own prompts."""


class Play:
    """A trace being played."""

    def __init__(self, trace: Trace, routers: Routers) -> None:
        self.events = routers.events
        self.routers = routers
        self.done: list[Work] = []
        self.left = trace.requests
        self._arrivals = 0
        for session in trace.sessions:
            self.events.at(session.turns[0].at, lambda session=session: self._turn(session, 0))

    def _turn(self, session: Session, number: int) -> None:
        turn = session.turns[number]
        work = Work(session.identities, turn.prompt, turn.output, self.events.now)

        def done() -> None:
            self.left -= 1
            self.done.append(work)
            if number + 1 < len(session.turns):
                at = max(session.turns[number + 1].at, self.events.now + PAUSE_S)
                self.events.at(at, lambda: self._turn(session, number + 1))

        work.on_done = done
        self._arrivals += 1
        self.routers.place(self._arrivals % len(self.routers.loads), work)


def simulate(
    trace: Trace,
    name: str,
    shape: FleetShape,
    *,
    seed: int = 0,
    timing: Timing | None = None,
    settings: PlacementSettings | None = None,
) -> Summary:
    contestant = POLICIES[name]
    settings = settings or PlacementSettings()
    shape = replace(shape, sighted=contestant.sighted, unified=contestant.unified)
    events, began = Events(), time.process_time()
    fleet = Fleet(shape, events, timing or Timing(), settings, seed)
    routers = Routers(fleet, PLACEMENTS[contestant.policy](settings), shape.routers)
    play = Play(trace, routers)
    events.run(lambda: not play.left)
    return summary(trace, name, play.done, time.process_time() - began)
