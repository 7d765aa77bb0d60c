"""What the front is told of the prefix cache: nothing unasked, then exactly its content, however it reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from baton.cache import RadixCache
from baton.engine import feed as module
from baton.engine.feed import PageFeed
from baton.protocol import engine as wire


class Bench:
    """A cache, its feed, and a front that keeps what it is told."""

    def __init__(self, bound: int = 1000) -> None:
        self.cache = RadixCache()
        self.now = 100.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        outbox, self._inbox = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        outbox.setsockopt(zmq.SNDHWM, bound)
        self._inbox.setsockopt(zmq.RCVHWM, bound)
        self._inbox.bind("inproc://front")
        outbox.connect("inproc://front")
        self.feed = PageFeed(self.cache, outbox, lambda: self.now)
        self.held: list[bytes] = []
        self.pages = 0

    def store(self, *prompt: int) -> None:
        """Pages of a prompt, one number each."""
        chain = [_identity(prompt[: i + 1]) for i in range(len(prompt))]
        root = self.cache.match([]).prefix
        numbers = range(self.pages, self.pages + len(chain))
        self.cache.insert(root, chain, list(numbers))
        self.pages += len(chain)

    def heard(self) -> list[wire.Pages]:
        """What was said since the last time, also noted in `held`."""
        said = []
        while self._inbox.poll(0):
            message = wire.read_to_front(self._inbox.recv())
            assert isinstance(message, wire.Pages)
            said.append(message)
            if message.anew:
                self.held.clear()
            for gone in _unpack(message.evicted):
                self.held.remove(gone)
            self.held += _unpack(message.stored)
        return said

    @property
    def content(self) -> list[bytes]:
        return sorted(identity for identity, _ in self.cache.snapshot())

    def close(self) -> None:
        self._context.destroy(linger=0)


def _identity(path: tuple[int, ...]) -> bytes:
    return bytes(path).ljust(16, b"\x00")


def _unpack(packed: bytes) -> list[bytes]:
    return [packed[at : at + 16] for at in range(0, len(packed), 16)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_nobody_is_told_who_did_not_ask(bench: Bench) -> None:
    bench.store(1, 2, 3)
    bench.feed.tell(idle=True)
    assert bench.heard() == []


def test_who_asks_late_hears_all_that_is_held_and_then_each_change_once(bench: Bench) -> None:
    bench.store(1, 2, 3)
    bench.feed.watch()
    bench.feed.tell(idle=False)
    (first,) = bench.heard()
    assert first.anew and sorted(bench.held) == bench.content
    bench.feed.tell(idle=True)
    assert bench.heard() == [], "nothing changed"
    bench.store(1, 2, 4)
    bench.feed.tell(idle=True)
    assert bench.heard() == [wire.Pages(b"", _identity((1, 2, 4)))]
    bench.cache.evict(2)
    bench.store(5)
    bench.feed.tell(idle=True)
    (change,) = bench.heard()
    assert len(_unpack(change.evicted)) == 2 and change.stored == _identity((5,))
    assert sorted(bench.held) == bench.content


def test_while_it_works_changes_gather_and_none_is_left_when_it_sleeps(bench: Bench) -> None:
    bench.feed.watch()
    bench.feed.tell(idle=False)
    bench.heard()
    for page in range(3):
        bench.store(page)
        bench.feed.tell(idle=False)
    assert bench.heard() == []
    bench.now += module.PAUSE_S
    bench.feed.tell(idle=False)
    assert len(bench.heard()) == 1 and len(bench.held) == 3
    bench.store(9)
    bench.feed.tell(idle=True)
    assert len(bench.heard()) == 1 and sorted(bench.held) == bench.content


def test_a_front_that_does_not_read_holds_nothing_up_and_misses_nothing() -> None:
    bench = Bench(bound=2)
    bench.feed.watch()
    for page in range(50):
        bench.store(page)
        bench.feed.tell(idle=True)  # would wait for ever if it sent into a full queue
    assert 1 <= len(bench.heard()) < 50
    bench.feed.tell(idle=True)
    bench.heard()
    assert sorted(bench.held) == bench.content and len(bench.held) == 50
    bench.close()


def test_asking_again_begins_anew(bench: Bench) -> None:
    bench.store(1, 2)
    bench.feed.watch()
    bench.feed.tell(idle=True)
    bench.store(3)
    bench.feed.watch()
    bench.feed.tell(idle=True)
    first, second = bench.heard()
    assert first.anew and second.anew and sorted(bench.held) == bench.content


def test_long_tellings_are_cut(bench: Bench) -> None:
    most = module.MOST_BYTES // 16
    evicted, stored = b"e" * 16 * (most + 1), b"s" * 16 * (2 * most + 1)
    parts = list(module._cut(evicted, stored, True))
    assert [part.anew for part in parts] == [True, False, False, False]
    assert b"".join(part.evicted for part in parts) == evicted
    assert b"".join(part.stored for part in parts) == stored
    assert all(max(len(part.evicted), len(part.stored)) <= module.MOST_BYTES for part in parts)
    seen_stored = False
    for part in parts:
        assert not (seen_stored and part.evicted), "an eviction after what was stored"
        seen_stored = seen_stored or bool(part.stored)
