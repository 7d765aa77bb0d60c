"""What a decode pod's front tells its engine and its peers of attempts, and what it keeps of them.

The engine and the peer are lists of what they were told: everything else here is said by the test.
"""

from __future__ import annotations

import asyncio
from typing import Any

from baton.core.types import Request, SamplingParams
from baton.decode.handoff import Handoffs
from baton.decode.peer import Peer
from baton.decode.settings import HandoffSettings
from baton.protocol import engine as wire
from baton.protocol import pods

HELLO = pods.Hello(pods.VERSION, "decode", "decode", b"m", 16, (b"rank",))
REQUEST = Request(id="r", token_ids=tuple(range(40)), sampling=SamplingParams(max_tokens=4))


class Told:
    """Stands where the worker does."""

    load = None
    open = 0

    def __init__(self) -> None:
        self.listener: Any = None
        self.reader: Any = None
        self.heard: list[wire.Message] = []
        self.sink: Any = None

    def tell(self, message: wire.Message) -> None:
        self.heard.append(message)

    def open_with(self, message: wire.Message, sink: Any) -> None:
        self.heard.append(message)
        self.sink = sink

    def abort(self, id: str) -> None: ...


class Asked(Peer):
    """A prefill worker that is ready, and whose connection leads into a list."""

    def __init__(self, worker: str) -> None:
        super().__init__("tcp://127.0.0.1:1", HELLO, pod=worker)
        self.worker = worker
        self.said: list[pods.Message] = []

    def send(self, message: pods.Message) -> None:
        self.said.append(message)


def front(*workers: str, **settings: Any) -> tuple[Told, list[Asked], Handoffs]:
    told, peers = Told(), [Asked(worker) for worker in workers]
    return told, peers, Handoffs(told, peers, HandoffSettings(**settings))  # type: ignore[arg-type]


def reservation(attempt: str) -> wire.Reservation:
    return wire.Reservation("r", attempt, 0, (3, 4, 5), 0)


def test_the_engine_is_told_of_every_attempts_end_also_of_one_that_nobody_was_asked_for() -> None:
    """Or it would remember each prompt that it computed itself, for ever."""

    async def check() -> None:
        told, _, handoffs = front("prefill")
        handoffs.submit(REQUEST, lambda update: None)
        (ask,) = told.heard
        assert isinstance(ask, wire.Ask)
        told.sink(wire.Update("r", token=5, finish="length"))
        assert wire.Over(ask.attempt) in told.heard and not handoffs.inflight

    asyncio.run(check())


def test_a_prompt_that_is_computed_here_is_no_attempt_any_more() -> None:
    """Its prefill pod has nothing to do with it: it may leave, and others need not be preferred to it."""

    async def check() -> None:
        told, (peer,), handoffs = front("prefill")
        handoffs.submit(REQUEST, lambda update: None)
        (ask,) = told.heard
        assert isinstance(ask, wire.Ask) and handoffs.uses(peer)
        told.sink(wire.Update("r", token=5, course=wire.Course([("prefill started", 1.0)])))
        assert not handoffs.inflight and not handoffs.uses(peer)
        told.sink(wire.Update("r", token=6))
        handoffs.abort("r")
        assert told.heard.count(wire.Over(ask.attempt)) == 1

    asyncio.run(check())


def test_a_prefill_pods_time_begins_when_it_is_asked() -> None:
    """Before that the request may have waited for pages here, for as long as it took."""

    async def check() -> None:
        told, (peer,), handoffs = front("prefill", timeout_s=0.5)
        handoffs.submit(REQUEST, lambda update: None)
        (ask,) = told.heard
        assert isinstance(ask, wire.Ask)
        await asyncio.sleep(0.6)
        handoffs.reserved(reservation(ask.attempt))
        (leg,) = peer.said
        assert isinstance(leg, pods.Leg) and leg.timeout_s > 0.25

    asyncio.run(check())


def test_a_second_prefill_pod_may_take_as_long_as_the_first() -> None:
    async def check() -> None:
        told, (first, second), handoffs = front("first", "second", timeout_s=300.0)
        handoffs.submit(REQUEST, lambda update: None, prefer=["first"])
        (ask,) = told.heard
        assert isinstance(ask, wire.Ask) and ask.timeout_s > 200
        handoffs.reserved(reservation(ask.attempt))
        handoffs.heard(first, pods.Ended(ask.attempt, False, "it was cut off"))
        (retry,) = [one for one in told.heard if isinstance(one, wire.Retry)]
        assert retry.worker == "second" and retry.timeout_s > 200
        handoffs.reserved(reservation(retry.attempt))
        assert [one.timeout_s > 200 for one in second.said if isinstance(one, pods.Leg)] == [True]

    asyncio.run(check())
