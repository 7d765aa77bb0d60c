"""The desk of a prefill pod, spoken to as decode pods do it: what it tells its engine, and in which order.

The engine is a list of what it was told: what matters here is said between the pods' fronts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import zmq
import zmq.asyncio

from baton.core.errors import WorkerDied
from baton.core.types import Request
from baton.prefill.legs import LegDesk
from baton.protocol import engine as wire
from baton.protocol import pods

M = TypeVar("M", bound=pods.PodMessage)


class Told:
    """Stands where the worker does."""

    facts = load = None
    gone = ending = False
    sink: Any = None

    def __init__(self) -> None:
        self.listener: Any = None
        self.reader: Any = None
        self.heard: list[wire.Message] = []

    def tell(self, message: wire.Message) -> None:
        self.heard.append(message)

    def open_with(self, message: wire.Message, sink: Any) -> None:
        if self.ending:
            raise WorkerDied("engine rank 1 was killed")
        self.heard.append(message)
        self.sink = sink

    async def hears(self, kind: type[wire.Message]) -> Any:
        """The next message of a kind, and all before it are forgotten."""
        async with asyncio.timeout(10):
            while not any(isinstance(one, kind) for one in self.heard):
                await asyncio.sleep(0.005)
        at = next(i for i, one in enumerate(self.heard) if isinstance(one, kind))
        found, self.heard = self.heard[at], self.heard[at + 1 :]
        return found


def hello(worker: str, session: str = "") -> pods.Hello:
    return pods.Hello(pods.VERSION, worker, "decode", b"m", 16, (b"rank",), "pod", session)


def leg(attempt: str, timeout_s: float = 30.0) -> pods.Leg:
    return pods.Leg(attempt, Request(id="r", token_ids=(1, 2, 3)), 0, (7,), timeout_s)


class Visitor:
    def __init__(self, address: str) -> None:
        self.context = zmq.asyncio.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(address)

    async def say(self, message: pods.Message) -> None:
        await self.socket.send(pods.encode(message))

    async def hear(self, kind: type[M]) -> M:
        """The next message of a kind; others are passed over."""
        async with asyncio.timeout(10):
            while not isinstance(message := pods.read(await self.socket.recv()), kind):
                pass
        return message


@asynccontextmanager
async def met() -> AsyncIterator[tuple[Told, LegDesk, Visitor]]:
    """A desk that a decode worker has said hello to, in the session `one`."""
    told = Told()
    async with LegDesk(told, hello("prefill"), "tcp://127.0.0.1:*") as desk:  # type: ignore[arg-type]
        visitor = Visitor(desk.address)
        try:
            await visitor.say(hello("decode", "one"))
            assert (await visitor.hear(pods.Hello)).session == "one"
            yield told, desk, visitor
        finally:
            visitor.context.destroy(linger=0)


def test_leave_to_write_is_asked_for_and_counts_from_then() -> None:
    async def check() -> None:
        began = time.monotonic()
        async with met() as (told, _, visitor):
            meet = await told.hears(wire.Meet)
            assert meet.worker == "decode" and meet.guarded
            asked = await visitor.hear(pods.Renew)
            assert asked.worker == "prefill" and began <= asked.at <= time.monotonic()
            await visitor.say(pods.Renewed("its successor's", asked.at + 1000))
            await visitor.say(pods.Renewed("prefill", asked.at))
            permit = await told.hears(wire.Permit)
            assert permit == wire.Permit("decode", asked.at + pods.PERMIT_S)
            assert (await visitor.hear(pods.Renew)).at > asked.at, "it must ask again and again"

    asyncio.run(check())


def test_a_new_session_ends_the_legs_of_the_one_before_and_only_then_is_leave_given() -> None:
    async def check() -> None:
        async with met() as (told, desk, visitor):
            await visitor.say(leg("first"))
            run = await told.hears(wire.RunLeg)
            assert run.request.id == "first" and 0 < run.deadline - time.monotonic() <= 30.0
            await visitor.say(hello("decode", "one"))  # as after a lost answer
            await visitor.say(leg("second"))
            await told.hears(wire.RunLeg)
            assert not any(isinstance(one, wire.AbortLeg) for one in told.heard)
            asked = await visitor.hear(pods.Renew)
            told.heard.clear()
            await visitor.say(hello("decode", "two"))
            await visitor.say(pods.Renewed("prefill", asked.at))
            ended = {(await told.hears(wire.AbortLeg)).attempt for _ in range(2)}
            assert ended == {"first", "second"}
            assert any(isinstance(one, wire.Permit) for one in told.heard) or await told.hears(wire.Permit)
            desk.ended(wire.LegEnd("first", complete=False))
            assert (await visitor.hear(pods.Ended)).attempt == "first"

    asyncio.run(check())


def test_a_worker_without_living_ranks_says_that_nothing_can_land() -> None:
    async def check() -> None:
        told = Told()
        async with LegDesk(told, hello("prefill"), "tcp://127.0.0.1:*") as desk:  # type: ignore[arg-type]
            visitor = Visitor(desk.address)
            await visitor.say(hello("decode", "one"))
            await visitor.say(leg("first"))
            await told.hears(wire.RunLeg)
            told.gone = True
        ended = await visitor.hear(pods.Ended)
        assert ended.attempt == "first" and not ended.complete
        visitor.context.destroy(linger=0)

    asyncio.run(check())


def test_a_decode_worker_that_knows_this_one_by_two_addresses_is_served_over_one_of_them() -> None:
    """Its second connection would else take the first one's place, end its legs, and lose it to the first."""

    async def check() -> None:
        async with met() as (told, desk, first):
            second = Visitor(desk.address)
            await first.say(leg("under way"))
            await told.hears(wire.RunLeg)
            await second.say(hello("decode", "another"))
            await second.say(pods.Ping())
            await second.hear(pods.Refused)  # so its hello has been read
            await first.say(leg("next"))
            assert (await told.hears(wire.RunLeg)).request.id == "next" and desk.open == 2
            assert not any(isinstance(one, wire.AbortLeg) for one in told.heard)
            await first.say(pods.Refused("not wanted any more"))
            await told.hears(wire.Part)
            await second.say(hello("decode", "another"))
            assert (await second.hear(pods.Hello)).session == "another"
            second.context.destroy(linger=0)

    asyncio.run(check())


def test_a_connection_that_was_made_anew_takes_the_place_of_the_one_before() -> None:
    async def check() -> None:
        async with met() as (_, desk, first):
            await first.say(hello("decode", "one.1"))
            await first.hear(pods.Hello)
            again = Visitor(desk.address)
            await again.say(hello("decode", "one.2"))
            assert (await again.hear(pods.Hello)).session == "one.2"
            again.context.destroy(linger=0)

    asyncio.run(check())


def test_a_leg_of_a_worker_that_failed_has_ended_only_when_no_rank_lives() -> None:
    """Its ranks are being killed: until then the mover of one of them may still write."""

    async def check() -> None:
        told = Told()
        async with LegDesk(told, hello("prefill"), "tcp://127.0.0.1:*") as desk:  # type: ignore[arg-type]
            visitor = Visitor(desk.address)
            await visitor.say(hello("decode", "one"))
            await visitor.say(leg("computing"))
            await told.hears(wire.RunLeg)
            told.ending = True
            told.sink(wire.Update("computing", finish="error", error="it died", code=WorkerDied.code))
            await visitor.say(leg("late"))  # nothing is done for it, and that may be said
            assert (await visitor.hear(pods.Ended)).attempt == "late"
            assert desk.open == 1
            told.gone = True
        assert (await visitor.hear(pods.Ended)).attempt == "computing"
        visitor.context.destroy(linger=0)

    asyncio.run(check())


def test_a_message_of_several_parts_is_refused_and_the_next_one_heard() -> None:
    async def check() -> None:
        async with met() as (told, _, visitor):
            await visitor.socket.send_multipart([pods.encode(pods.Ping()), b"and more"])
            await visitor.hear(pods.Refused)
            await visitor.say(leg("next"))
            assert (await told.hears(wire.RunLeg)).request.id == "next"

    asyncio.run(check())
