"""The engine of rank 0: scheduler and runner, one step at a time.

    reserve → schedule → launch → absorb the step before → push what settled

`step()` is the whole of it. With overlap, a step is absorbed only after the next one was launched,
so the host works while the device computes. An impatient caller is never kept waiting by the device:
what comes in meanwhile (requests, first tokens, landings) is taken in, reserved for and told at once.
Followers are told each batch before it is launched here.
Every engine can compute prompts for others (`legs`) and take prompts computed by others (`intake`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from baton.core.types import Finish, Request
from baton.engine.batch import Batch
from baton.engine.flight import Flight, StepRunner
from baton.engine.intake import Intake, Reserved
from baton.engine.launch import Launch
from baton.engine.legs import Ended, PrefillLegs, Push
from baton.engine.pace import Pace
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import NEVER
from baton.protocol.engine import Load, Update

Announce = Callable[[Batch], None]

RECOUNT_STEPS = 16
"""The queue's tokens are counted anew after so many steps, or when its length has changed."""
PATIENCE_S = 1.0
"""How long a patient caller waits at once for masks where nothing else can be done."""


@dataclass(frozen=True, slots=True)
class Happened:
    """What a step brought about, to be told or carried out."""

    updates: list[Update]
    reserved: list[Reserved]
    """Prompts for which pages wait now: ask somebody to fill them."""
    pushes: list[Push]
    """Pages to send now: their contents are complete."""
    ended: list[Ended]
    """Legs that are over."""

    def __bool__(self) -> bool:
        return bool(self.updates or self.reserved or self.pushes or self.ended)


class Engine:
    def __init__(
        self, scheduler: Scheduler, runner: StepRunner, *, overlap: bool, announce: Announce | None = None
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.legs = PrefillLegs(scheduler)
        self.intake = Intake(scheduler)
        self.pace = Pace()
        scheduler.fastest = lambda: self.pace.fastest_tokens_per_s
        scheduler.constrained.step_s = lambda: self.pace.decode_step_ms / 1e3
        scheduler.arriving = lambda: self.intake.waiting
        self.depth = 1 if overlap else 0
        """Steps that may stay in flight when a call of `step` returns."""
        self.announce = announce
        self._flying: deque[tuple[Launch, Flight]] = deque()
        self._count = (0, 0)
        """Length of the queue, and when: as of the last count of its tokens."""
        self._waiting_tokens = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, running or in flight. Requests of others may still be pushing."""
        return self.scheduler.idle and not self._flying

    @property
    def flying(self) -> int:
        """Steps launched and not absorbed."""
        return len(self._flying)

    @property
    def making(self) -> bool:
        """Whether masks are being computed that somebody waits for."""
        return self.scheduler.constrained.making

    def submit(self, request: Request, due: float = NEVER) -> None:
        self.scheduler.submit(request, due=due)

    def abort(self, id: str, why: Finish = Finish.ABORT) -> None:
        self.scheduler.abort(id, why)

    def step(self, *, patient: bool = True) -> Happened:
        """Launch a step if there is one and room for it, absorb what is due, and say what happened. Unless
        `patient`, a step that is still in flight is due another time."""
        reserved = self.intake.reservations()
        launch = self.scheduler.next() if len(self._flying) <= self.depth else None
        if launch is not None:
            if self.announce is not None:
                self.announce(launch.batch)
            self.pace.launched()
            self._flying.append((launch, self.runner.launch(launch.batch)))
        if self._flying and (launch is None or len(self._flying) > self.depth):
            self._absorb(patient)
        elif launch is None and patient:
            self.scheduler.constrained.rest(PATIENCE_S)
        pushes = self.legs.pushes()
        updates, self.scheduler.updates = self.scheduler.updates, []
        return Happened(updates, reserved, pushes, self.legs.ended())

    def _absorb(self, patient: bool) -> None:
        launch, flight = self._flying[0]
        if patient or flight.ready():
            self._flying.popleft()
            outcome = flight.result()
            self.pace.absorbed(sum(span.tokens for span in launch.spans))
            self.scheduler.absorb(launch, outcome)

    def rest(self, seconds: float) -> None:
        """Wait for the oldest step in flight, else for masks, but no longer than this."""
        if self._flying:
            self._flying[0][1].ready(seconds)
        else:
            self.scheduler.constrained.rest(seconds)

    def load(self) -> Load:
        """How busy it is, and how fast."""
        scheduler = self.scheduler
        allocator, cache = scheduler.holdings.allocator, scheduler.holdings.cache
        return Load(
            waiting=len(scheduler.waiting) + self.intake.waiting,
            prefilling=len(scheduler.prefilling),
            running=len(scheduler.running),
            pages_free=allocator.free,
            pages_cached=cache.pages,
            pages_evictable=cache.evictable,
            pages_total=allocator.total - 1,
            pages_fenced=allocator.fenced,
            retractions=scheduler.retractions,
            steps=scheduler.steps,
            prefill_tokens_queued=self._queued(),
            prefill_tokens_per_s=self.pace.prefill_tokens_per_s,
            decode_step_ms=self.pace.decode_step_ms,
        )

    def _queued(self) -> int:
        """Prompt tokens that are to be computed. The queue may be long, so it is not counted every step."""
        scheduler = self.scheduler
        count = (len(scheduler.waiting), scheduler.steps // RECOUNT_STEPS)
        if count != self._count:
            self._count = count
            self._waiting_tokens = sum(len(one.tokens) - one.computed for one in scheduler.waiting)
        return self._waiting_tokens + sum(len(one.tokens) - one.computed for one in scheduler.prefilling)

    def close(self) -> None:
        self.runner.close()

    def __repr__(self) -> str:
        return f"<Engine {len(self._flying)} in flight; {self.scheduler!r}>"
