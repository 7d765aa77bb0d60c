"""The loop of rank 0: messages in, one step, news out.

It decides with the engine, tells the following ranks each batch and each transfer in one order, and
sleeps when there is nothing to do until a message comes: from the front, or from a rank's mover.
"""

from __future__ import annotations

import zmq

from baton.core.errors import BatonError, DeadlineExceeded, InvalidRequest, Refused
from baton.core.types import Finish
from baton.engine.batch import Batch
from baton.engine.build import Built
from baton.engine.carrier import Carrier
from baton.engine.exchange import Exchange, due_of
from baton.engine.feed import PageFeed
from baton.engine.fetches import Fetches
from baton.engine.loans import Loans
from baton.engine.loop import Engine, Happened
from baton.engine.parked import Begins, Parked
from baton.engine.profile import Profile
from baton.engine.steps import to_step
from baton.protocol import engine as wire

IDLE_POLL_MS = 1000
"""How long an idle rank sleeps between looks; messages wake it at once."""
REST_S = {"cuda": 0.0002, "cpu": 0.002}
"""How long to wait for a step in flight between two looks for messages."""
STARVED_POLL_MS = 2
"""How long to wait when there is work but nothing can be launched or absorbed."""


class Lead:
    def __init__(
        self,
        built: Built,
        inbox: zmq.Socket[bytes],
        outbox: zmq.Socket[bytes],
        followers: list[zmq.Socket[bytes]],
        carrier: Carrier | None,
    ) -> None:
        self.inbox = inbox
        self.outbox = outbox
        self.followers = followers
        self.carrier = carrier
        self.engine = Engine(
            built.scheduler, built.runner, overlap=built.config.overlap,
            announce=self._announce if followers else None,
        )  # fmt: skip
        self.exchange = Exchange(self.engine, 1 + len(followers), self._command)
        self.feed = PageFeed(built.scheduler.holdings.cache, outbox)
        holdings = built.scheduler.holdings
        self.fetches = Fetches(holdings, 1 + len(followers), self._command)
        self.loans = Loans(holdings)
        self.parked = Parked(built.scheduler.constrained.grammars)
        self._wanting: list[wire.Wanting] = []
        self._lent: list[wire.Lent] = []
        self._told = self.engine.load()
        self._rest_s = REST_S[built.config.device]
        self.profile = Profile(built.config.profile, built.config.profile_from)

    def run(self) -> None:
        """Until told to stop."""
        wait_ms = 0
        while self._receive(wait_ms):
            for message in self.parked.ready():
                self._take(message)
            steps, flying = self.engine.scheduler.steps, self.engine.flying
            happened = self.engine.step(patient=False)
            stepped = self.engine.scheduler.steps != steps
            if stepped:
                self.profile.step()
            self._tell(happened)
            progressed = bool(happened) or stepped or self.engine.flying != flying
            busy = not self.engine.idle and (progressed or self.engine.flying > 0)
            self.feed.tell(idle=not busy)
            wait_ms = self._pause(progressed)
        for socket in self.followers:
            socket.send(b"")
        self.engine.close()

    def _pause(self, progressed: bool) -> int:
        """Wait a moment when nothing can be done but wait for the device; how long to wait for messages."""
        if self.engine.idle:
            return STARVED_POLL_MS if self.parked else IDLE_POLL_MS
        if progressed:
            return 0
        if self.engine.flying:
            self.engine.rest(self._rest_s)
            return 0
        if self.engine.making:
            self.engine.rest(STARVED_POLL_MS / 1000)
            return 0
        return STARVED_POLL_MS

    def _tell(self, happened: Happened) -> None:
        exchange = self.exchange
        reserved = exchange.reserved(happened.reserved)
        exchange.push(happened.pushes)
        ended = exchange.ended(happened.ended)
        landed, exchange.landed = exchange.landed, []
        paths, exchange.paths = exchange.paths, []
        lost, exchange.lost = exchange.lost, []
        wanting, self._wanting = self._wanting, []
        lent, self._lent = self._lent, []
        fetched, self.fetches.done = self.fetches.done, []
        load = self.engine.load()
        news = happened.updates or reserved or ended or landed or paths or lost or wanting or lent or fetched
        if news or _moved(load, self._told):
            # Also without news: pages come free a step after their sequence's last token was told.
            self._told = load
            told = (happened.updates, load, reserved, ended, landed, paths, lost, wanting, fetched, lent)
            self.outbox.send(wire.encode(wire.News(*told)))

    # ---- to the ranks ----

    def _announce(self, batch: Batch) -> None:
        data = wire.encode(to_step(batch))
        for socket in self.followers:
            socket.send(data)

    def _command(self, command: wire.ToRank) -> None:
        assert self.carrier is not None, "a hand-over in an engine that was started without"
        data = wire.encode(command)
        for socket in self.followers:
            socket.send(data)
        self.carrier.obey(command)

    # ---- from the front and the ranks ----

    def _receive(self, wait_ms: int) -> bool:
        """Take in every message that has come; False when told to stop."""
        while self.inbox.poll(wait_ms):
            wait_ms = 0
            message = wire.read_to_engine(self.inbox.recv())
            if isinstance(message, wire.Stop):
                return False
            self._take(message)
        return True

    def _take(self, message: wire.ToEngine) -> None:
        if self.parked.takes(message):
            if isinstance(message, wire.Abort):
                self.engine.scheduler.updates.append(wire.Update(message.id, finish=Finish.ABORT.value))
            return
        match message:
            case wire.Submit() | wire.Ask() | wire.RunLeg():
                self._start(message)
            case wire.Abort(id=id):
                self.engine.intake.abort(id)
                self.engine.abort(id)
            case wire.AbortLeg(attempt=attempt):
                if not self.exchange.abort_leg(attempt):
                    ended = [wire.LegEnd(attempt, complete=False)]
                    self.outbox.send(wire.encode(wire.News([], self.engine.load(), ended=ended)))
            case wire.Began(attempt=attempt, token=token, logprob=logprob, scores=scores):
                self.engine.intake.first_token(attempt, token, logprob, scores)
            case wire.Retry():
                self.exchange.retry(message)
            case wire.Local(id=id):
                self.engine.intake.local(id)
            case wire.Over(attempt=attempt):
                self.exchange.over(attempt)
            case wire.Fetch():
                wanting = self.fetches.want(message, self.engine.scheduler.spare_pages())
                if wanting is not None:
                    self._wanting.append(wanting)
            case wire.Pull(fetch=fetch, pages=pages):
                self.fetches.pull(fetch, pages)
            case wire.Lend(loan=loan, identities=identities, first=first):
                self._lent.append(wire.Lent(loan, self.loans.lend(loan, identities, first)))
            case wire.Unlend(loan=loan):
                self.loans.end(loan)
            case wire.Taken(fetch=fetch, ok=ok):
                self.fetches.read(fetch, ok)
            case wire.Meet() | wire.Permit() | wire.Part():
                self._command(message)
            case wire.Watch():
                self.feed.watch()
            case wire.Introduced() | wire.Sent() | wire.Arrived() | wire.Met() | wire.Lost():
                self.exchange.take(message)

    def _start(self, message: Begins) -> None:
        try:
            self._begin(message)
        except (InvalidRequest, Refused, DeadlineExceeded) as error:
            self.engine.scheduler.updates.append(_refusal(message.request.id, error))

    def _begin(self, message: Begins) -> None:
        match message:
            case wire.Submit(request=request):
                self.engine.submit(request, due_of(message))
            case wire.Ask():
                self.exchange.ask(message)
            case wire.RunLeg():
                self.exchange.run_leg(message)


def _moved(load: wire.Load, told: wire.Load) -> bool:
    """Whether sequences or pages have come or gone; that a step more was made is no news."""
    return _counts(load) != _counts(told)


def _counts(load: wire.Load) -> tuple[int, ...]:
    sequences = (load.waiting, load.prefilling, load.running, load.prefill_tokens_queued)
    return (*sequences, load.pages_free, load.pages_evictable)


def _refusal(id: str, error: BatonError) -> wire.Update:
    field = getattr(error, "field", None)
    return wire.Update(id, finish=Finish.ERROR.value, error=str(error), code=error.code, field=field)
