"""The queue, the limits and the keys, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from baton.core.clock import SystemClock
from baton.core.errors import Forbidden, InvalidSetting, QueueFull, RateLimited, Unauthenticated
from baton.router.entry import ANYBODY, Admission, Key, KeyLimits, KeyRing
from baton.router.entry.keys import read_keys
from baton.router.meters import Meters
from baton.router.settings import AdmissionSettings
from baton.telemetry import Metrics
from baton.testing import ManualClock

ALICE, BOB = Key("alice", b"a"), Key("bob", b"b")
URGENT = Key("urgent", b"u", priority=-1)


def admission(running: int, queued: int) -> Admission:
    settings = AdmissionSettings(max_running=running, max_queued=queued)
    return Admission(settings, SystemClock(), Meters(Metrics(), "cost"))


class Guests:
    """Requests that enter in turn and leave when told to."""

    def __init__(self, queue: Admission) -> None:
        self.queue = queue
        self.entered: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, key: Key, priority: int = 0) -> None:
        self._leave[name] = asyncio.Event()

        async def stay() -> None:
            async with self.queue.enter(key, priority):
                self.entered.append(name)
                await self._leave[name].wait()

        self.tasks[name] = asyncio.create_task(stay())
        await asyncio.sleep(0)

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 10))


def test_who_floods_the_queue_waits_behind_its_own() -> None:
    async def story() -> None:
        guests = Guests(admission(2, 100))
        for number in range(10):
            await guests.come(f"a{number}", ALICE)
        await guests.come("b0", BOB)
        await guests.come("b1", BOB)
        assert guests.entered == ["a0", "a1"] and guests.queue.waiting == 10
        await guests.go("a0")
        assert guests.entered[2:] == ["b0"], "bob has nothing under way, alice has"
        await guests.go("a1")
        assert guests.entered[3:] == ["a2"], "each has one: the oldest"
        await guests.go("b0")
        assert guests.entered[4:] == ["b1"]
        for name in list(guests.tasks):
            guests._leave[name].set()
        await asyncio.gather(*guests.tasks.values())
        assert (guests.queue.running, guests.queue.waiting) == (0, 0)

    run(story())


def test_priorities_of_keys_come_before_those_within_a_key() -> None:
    async def story() -> None:
        guests = Guests(admission(1, 100))
        await guests.come("first", ALICE)
        await guests.come("late", ALICE, priority=5)
        await guests.come("soon", ALICE, priority=-5)
        await guests.come("bob", BOB, priority=-100)
        await guests.come("urgent", URGENT, priority=100)
        for name in ("first", "urgent", "bob", "soon", "late"):
            await guests.go(name)
        assert guests.entered == ["first", "urgent", "bob", "soon", "late"]

    run(story())


def test_a_full_queue_refuses_at_once_and_a_wait_that_ends_leaves_no_trace() -> None:
    async def story() -> None:
        guests = Guests(admission(1, 2))
        for name in ("one", "two", "three"):
            await guests.come(name, ALICE)
        with pytest.raises(QueueFull):
            guests.queue.check()
        await guests.come("four", BOB)
        with pytest.raises(QueueFull):
            await guests.tasks["four"]
        guests.tasks["two"].cancel()
        await asyncio.gather(guests.tasks["two"], return_exceptions=True)
        assert guests.queue.waiting == 1
        guests.queue.check()
        await guests.go("one")
        assert guests.entered == ["one", "three"]
        # Its turn comes in the very moment in which it is given up.
        await guests.come("five", ALICE)
        guests._leave["three"].set()
        await guests.tasks["three"]
        guests.tasks["five"].cancel()
        await asyncio.gather(guests.tasks["five"], return_exceptions=True)
        assert (guests.queue.running, guests.queue.waiting) == (0, 0)

    run(story())


def test_a_rate_is_a_bucket_and_says_when_to_come_back() -> None:
    clock = ManualClock()
    limits, key = KeyLimits(clock), Key("k", b"k", rate=2.0)
    for _ in range(4):
        with limits.hold(key):
            pass
    with pytest.raises(RateLimited) as caught, limits.hold(key):
        pass
    assert caught.value.retry_after_s == pytest.approx(0.5)
    clock.advance(0.5)
    with limits.hold(key):
        pass


def test_concurrency_counts_what_is_open() -> None:
    limits, key = KeyLimits(ManualClock()), Key("k", b"k", concurrency=1)
    with limits.hold(key), pytest.raises(RateLimited), limits.hold(key):
        pass
    with limits.hold(key), limits.hold(ALICE):
        pass


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("alice", "line 1"),
        ("# fine\n\nalice:short", "line 3"),
        ("alice:sk-12345678:fast", "line 1"),
        ("alice:sk-12345678:-1", "line 1"),
        ("alice:sk-12345678:1:2:99999", "line 1"),
        ("alice:sk-12345678\nalice:sk-23456789", "line 2"),
        ("alice:sk-12345678\nbob:sk-12345678", "line 2"),
        ("alice:sk-12345678::::boss", "line 1"),
        ("a:b:c:d:e:f:g", "line 1"),
        ("alice:sk-1234567é", "ASCII"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(text: str, wrong: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        read_keys(text)
    assert wrong in str(caught.value) and "sk-" not in str(caught.value)


def test_keys_are_known_by_either_header(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("alice: sk-12345678 : 1.5 : 3 : -2\n")
    ring = KeyRing(str(file), ManualClock())

    def who(*headers: tuple[bytes, bytes]) -> Key:
        return ring.who({"headers": list(headers)})

    key = who((b"authorization", b"Bearer sk-12345678"))
    assert (key.name, key.rate, key.concurrency, key.priority) == ("alice", 1.5, 3, -2)
    assert who((b"x-api-key", b"sk-12345678")) == key
    for wrong in (
        (b"authorization", b"Basic sk-12345678"),
        (b"authorization", b"Bearer sk-1234567"),
        (b"x", b"y"),
    ):
        with pytest.raises(Unauthenticated):
            who(wrong)
    assert KeyRing("", ManualClock()).who({"headers": []}) is ANYBODY


def test_a_file_that_is_no_text_is_a_setting_s_mistake(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_bytes("zoë:sk-12345678\n".encode("latin-1"))
    with pytest.raises(InvalidSetting, match=r"keys\.file"):
        KeyRing(str(file), ManualClock())


def test_operators_are_marked(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("alice:sk-12345678\nops:sk-23456789::::operator\n")
    ring = KeyRing(str(file), ManualClock())

    def check(ring: KeyRing, *headers: tuple[bytes, bytes]) -> None:
        ring.check_operator({"headers": list(headers)})

    check(ring, (b"x-api-key", b"sk-23456789"))
    check(KeyRing("", ManualClock()))
    with pytest.raises(Forbidden):
        check(ring, (b"x-api-key", b"sk-12345678"))
    with pytest.raises(Unauthenticated):
        check(ring)
