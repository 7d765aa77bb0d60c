"""Who watches is told everything once and in order, of all processes; who does not read is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.router.page.test_frames import LEASE, placed

from baton.core.errors import PeerLost
from baton.router.page.course import Reading
from baton.router.page.feed import FIRST_S, PAUSE_S, Feed, Sources
from baton.router.page.landings import LONGEST_GAP_S, Landings
from baton.router.page.sight import LONGEST_QUEUE, Seen, Sight
from baton.router.relay.trail import Placement, Trail
from baton.router.siblings import Message, State
from baton.state import Fleet
from baton.testing.clock import ManualClock

Event = tuple[str, Any]


class Process:
    """What one process sees; `lost` while nobody reaches it."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.trail = Trail()
        self.requests = 0
        self.state = State()
        self.lost = False
        self.seen = Seen(
            placements=lambda: self.trail.placements,
            reading=lambda: Reading(clock.now(), self.requests, 0, 0, 0, (), ()),
            state=lambda: self.state,
        )
        self.sight = Sight(self.seen, clock)

    async def follow(self) -> AsyncIterator[Message]:
        if not self.lost:
            async for message in self.sight.follow():
                yield message
        raise PeerLost("it is gone")

    def place(self, number: int) -> Placement:
        one = placed()
        one.request = f"req-{number}"
        one.at = self.clock.now()
        self.trail.add(one)
        return one


class Stage:
    """A feed over two processes, the first its own, and sources that a test changes at will."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.own, self.other = Process(self.clock), Process(self.clock)
        self.landed: list[dict[str, Any]] = []
        self.feed = Feed(
            Sources(
                fleet=lambda: Fleet(workers={"decode-0": LEASE}),
                facts=lambda: {"model": "tiny"},
                handoffs=self._handoffs,
            ),
            {0: self.own.follow, 1: self.other.follow},
            0,
            self.clock,
        )
        self.trail, self.place = self.own.trail, self.own.place

    async def _handoffs(self) -> list[dict[str, Any]]:
        found, self.landed = self.landed, []
        return found


def read(data: bytes) -> Event:
    name, body = data.decode().removesuffix("\n\n").split("\n")
    return name.removeprefix("event: "), msgspec.json.decode(body.removeprefix("data: "))


async def next_of(watch: AsyncIterator[bytes], kind: str) -> Any:
    async with asyncio.timeout(5):
        while True:
            name, frame = read(await anext(watch))
            if name == kind:
                return frame


def staged(act: Callable[[Stage], Awaitable[None]]) -> None:
    async def play() -> None:
        stage = Stage()
        works = (stage.feed, stage.own.sight, stage.other.sight)
        runs = [asyncio.create_task(work.run()) for work in works]
        try:
            await act(stage)
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)

    asyncio.run(play())


def test_a_page_that_opens_sees_what_was_before_and_then_what_comes() -> None:
    async def act(stage: Stage) -> None:
        stage.place(1)
        watch = stage.feed.watch()
        hello = await next_of(watch, "hello")
        assert [one["id"] for one in hello["placements"]] == ["req-1.0"]
        second = stage.place(2)
        await stage.clock.run_for(1.0)
        assert (await next_of(watch, "placement"))["id"] == "req-2.0", "and req-1 not again"
        second.ttft_s = 0.02
        await stage.clock.run_for(1.0)
        assert await next_of(watch, "ended") == {"id": "req-2.0", "outcome": "running", "ttft_ms": 20.0}
        stage.landed.append({"id": "r", "from": "prefill-0", "to": "decode-0", "at": stage.clock.now() - 1.5})
        await stage.clock.run_for(1.0)
        assert (await next_of(watch, "handoff"))["from"] == "prefill-0"
        again = await next_of(stage.feed.watch(), "hello")
        assert [one["from"] for one in again["handoffs"]] == ["prefill-0"]

    staged(act)


def test_every_second_has_its_snapshot() -> None:
    async def act(stage: Stage) -> None:
        watch = stage.feed.watch()
        await next_of(watch, "hello")
        await stage.clock.run_for(2.5)
        first, second = await next_of(watch, "snapshot"), await next_of(watch, "snapshot")
        assert [pod["id"] for pod in first["pods"]] == ["decode-0"] == [pod["id"] for pod in second["pods"]]
        assert first["router"]["model"] == "tiny" and first["point"]["requests_s"] == 0

    staged(act)


def test_who_does_not_read_is_let_go_and_others_are_not() -> None:
    async def act(stage: Stage) -> None:
        deaf, good = stage.feed.watch(), stage.feed.watch()
        await next_of(deaf, "hello")
        await next_of(good, "hello")
        for number in range(LONGEST_QUEUE + 10):
            stage.feed._tell("placement", {"number": number})
            if number % 100 == 0:
                while (await next_of(good, "placement"))["number"] != number:
                    pass
        assert repr(stage.feed).startswith("<Feed: 1 watchers")
        with pytest.raises(StopAsyncIteration):
            while True:
                await anext(deaf)

    staged(act)


def test_what_other_processes_see_is_shown_too() -> None:
    async def act(stage: Stage) -> None:
        stage.own.place(1)
        await stage.clock.run_for(0.5)
        stage.other.place(2)
        watch = stage.feed.watch()
        hello = await next_of(watch, "hello")
        assert [one["id"] for one in hello["placements"]] == ["req-1.0", "req-2.0"], "in their order"
        third = stage.other.place(3)
        await stage.clock.run_for(0.5)
        assert (await next_of(watch, "placement"))["id"] == "req-3.0"
        third.ttft_s = 0.05
        await stage.clock.run_for(0.5)
        assert (await next_of(watch, "ended"))["id"] == "req-3.0"
        stage.own.requests, stage.other.requests = 3, 4
        stage.own.state, stage.other.state = State(running=2), State(running=5, shunned=("decode-0",))
        await stage.clock.run_for(1.0)
        while (shown := await next_of(watch, "snapshot"))["point"]["requests_s"] != 7:
            pass
        assert shown["router"]["running"] == 7 and shown["pods"][0]["state"] == "failing"

    staged(act)


def test_a_process_that_is_lost_holds_nobody_up_and_is_found_again() -> None:
    async def act(stage: Stage) -> None:
        stage.other.place(1)
        watch = stage.feed.watch()
        await next_of(watch, "hello")
        stage.other.state = State(running=5)
        await stage.clock.run_for(1.0)
        assert (await next_of(watch, "snapshot"))["router"]["running"] == 5
        stage.other.lost = True
        stage.other.sight.close()
        stage.own.state = State(running=1)
        stage.place(2)
        await stage.clock.run_for(1.0)
        assert (await next_of(watch, "placement"))["id"] == "req-2.0"
        while (await next_of(watch, "snapshot"))["router"]["running"] != 1:
            await stage.clock.run_for(1.0)
        stage.other.sight, stage.other.lost = Sight(stage.other.seen, stage.clock), False
        stage.other.place(3)
        run = asyncio.create_task(stage.other.sight.run())
        await stage.clock.run_for(PAUSE_S)
        assert (await next_of(watch, "placement"))["id"] == "req-3.0", "and req-1 not again"
        await stage.clock.run_for(2.0)
        while (await next_of(watch, "snapshot"))["router"]["running"] != 6:
            await stage.clock.run_for(1.0)
        run.cancel()

    staged(act)


def test_a_page_does_not_wait_for_a_process_that_is_gone() -> None:
    async def act(stage: Stage) -> None:
        stage.other.lost = True
        stage.place(1)
        watch = stage.feed.watch()
        opening = asyncio.create_task(next_of(watch, "hello"))
        await stage.clock.run_for(FIRST_S / 2)
        assert not opening.done()
        await stage.clock.run_for(FIRST_S)
        assert [one["id"] for one in (await opening)["placements"]] == ["req-1.0"]

    staged(act)


def test_another_page_takes_nothing_from_those_that_are_open() -> None:
    async def act(stage: Stage) -> None:
        first, second = stage.feed.watch(), stage.feed.watch()
        await next_of(first, "hello")
        stage.place(1)
        hello = await next_of(second, "hello")
        await stage.clock.run_for(0.5)
        assert (await next_of(first, "placement"))["id"] == "req-1.0"
        assert hello["placements"] or (await next_of(second, "placement"))["id"] == "req-1.0"

    staged(act)


def test_who_comes_when_the_last_one_leaves_is_told_everything_once() -> None:
    async def act(stage: Stage) -> None:
        stage.place(1)
        first = stage.feed.watch()
        await next_of(first, "hello")
        await first.aclose()
        second = stage.feed.watch()
        assert [one["id"] for one in (await next_of(second, "hello"))["placements"]] == ["req-1.0"]
        await stage.clock.run_for(0.5)
        await second.aclose()
        await stage.clock.run_for(0.5)
        assert repr(stage.own.sight) == "<Sight: 0 followers>", "nobody looks while nobody watches"
        stage.place(2)
        third = stage.feed.watch()
        hello = await next_of(third, "hello")
        assert [one["id"] for one in hello["placements"]] == ["req-1.0", "req-2.0"]
        stage.place(3)
        await stage.clock.run_for(0.5)
        assert (await next_of(third, "placement"))["id"] == "req-3.0", "and nothing before again"

    staged(act)


def test_closing_ends_every_watch() -> None:
    async def act(stage: Stage) -> None:
        watch = stage.feed.watch()
        await next_of(watch, "hello")
        stage.feed.close()
        assert (await anext(watch)).startswith(b":")
        with pytest.raises(StopAsyncIteration):
            await anext(watch)

    staged(act)


def test_pods_are_asked_for_what_came_since() -> None:
    clock, asked = ManualClock(), list[tuple[str, str]]()
    told: dict[str, Any] = {"last": 7, "prompt_tokens": 100, "cached_tokens": 10}
    landing = {"request": "r", "prefill": "p", "tokens": 96, "bytes": 9, "ms": 4.1, "age_s": 2.0}
    told["landed"] = [landing]

    async def ask(pod: str, path: str) -> bytes:
        asked.append((pod, path))
        if not told:
            raise PeerLost("gone")
        return msgspec.json.encode(told)

    workers = [LEASE, msgspec.structs.replace(LEASE, id="prefill-0", role="prefill")]
    landings = Landings(lambda: workers, ask, clock)

    async def play() -> None:
        (found,) = await landings.new()
        assert (found["from"], found["to"], found["at"]) == ("p", "decode-0", clock.now() - 2.0)
        assert (landings.prompt, landings.cached) == (0, 0), "what was before counts for nothing"
        told.update(last=7, landed=[], prompt_tokens=150, cached_tokens=50)
        assert await landings.new() == []
        assert (landings.prompt, landings.cached) == (50, 40)
        clock.advance(LONGEST_GAP_S + 1)
        told.update(prompt_tokens=900)
        await landings.new()
        assert landings.prompt == 50, "nobody watched in between"
        told.clear()
        assert await landings.new() == []
        workers[0] = msgspec.structs.replace(LEASE, incarnation="inc-2")
        await landings.new()

    asyncio.run(play())
    assert asked == [("decode-0", f"/handoffs?after={after}") for after in (0, 7, 7, 7, 0)]
