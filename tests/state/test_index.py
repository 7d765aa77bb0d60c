"""The index against a simple model, under random stores, evictions, restarts and losses of workers."""

from __future__ import annotations

import random
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.state import PrefixIndex
from baton.state.events import pack
from baton.state.index import _depth


def _page(path: tuple[int, ...]) -> bytes:
    """The identity of the last page of a chain."""
    return blake2b(bytes(path), digest_size=16).digest()


def _chain(path: tuple[int, ...]) -> list[bytes]:
    return [_page(path[: depth + 1]) for depth in range(len(path))]


class Caches:
    """The model: each worker's cache as a set of paths, closed under taking the parent."""

    def __init__(self) -> None:
        self.held: dict[str, set[tuple[int, ...]]] = {}

    def store(self, worker: str, path: tuple[int, ...]) -> list[bytes]:
        """Parents first."""
        mine = self.held.setdefault(worker, set())
        new = [path[:depth] for depth in range(1, len(path) + 1) if path[:depth] not in mine]
        mine.update(new)
        return [_page(one) for one in new]

    def evict(self, worker: str, path: tuple[int, ...]) -> list[bytes]:
        """A page and all below it, leaves first."""
        mine = self.held.setdefault(worker, set())
        gone = sorted((one for one in mine if one[: len(path)] == path), key=len, reverse=True)
        mine.difference_update(gone)
        return [_page(one) for one in gone]

    def depth(self, worker: str, path: tuple[int, ...]) -> int:
        return next((n for n in range(len(path), 0, -1) if path[:n] in self.held[worker]), 0)


paths = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
workers = st.sampled_from(["w0", "w1", "w2", "w3"])
moves = st.lists(
    st.one_of(
        st.tuples(st.just("store"), workers, paths),
        st.tuples(st.just("evict"), workers, paths),
        st.tuples(st.sampled_from(["drop", "reset"]), workers, st.just(())),
    ),
    max_size=40,
)


@given(moves, st.lists(paths, min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_the_index_is_the_model(
    history: list[tuple[str, str, tuple[int, ...]]], prompts: list[tuple[int, ...]]
) -> None:
    index, caches = PrefixIndex(), Caches()
    for move, worker, path in history:
        match move:
            case "store":
                index.apply(worker, b"", pack(caches.store(worker, path)))
            case "evict":
                index.apply(worker, pack(caches.evict(worker, path)), b"")
            case "drop":
                index.drop(worker)
                caches.held.pop(worker, None)
            case "reset":
                mine = caches.held.setdefault(worker, set())
                mine.difference_update([one for one in mine if len(one) > 2])
                index.reset(worker, pack(_page(one) for one in mine))
    assert index.pages == {worker: len(mine) for worker, mine in caches.held.items()}
    assert len(index) == sum(index.pages.values())
    for prompt in prompts:
        assert index.lookup(_chain(prompt)) == {
            worker: caches.depth(worker, prompt) for worker in caches.held
        }


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 63, 64, 65, 200])
def test_every_depth_is_found(length: int) -> None:
    chain = [n.to_bytes(16, "big") for n in range(length)]
    for depth in range(length + 1):
        assert _depth(dict.fromkeys(chain[:depth]), chain) == depth


def test_no_pages_are_no_prefix() -> None:
    index = PrefixIndex()
    assert index.lookup([bytes(16)]) == {}
    index.apply("w1", b"", bytes(16))
    assert index.lookup([]) == {"w1": 0}
    index.reset("w1", b"")
    assert index.lookup([bytes(16)]) == {"w1": 0}


def test_a_page_evicted_and_stored_in_one_frame_is_held() -> None:
    index = PrefixIndex()
    index.apply("w1", bytes(16), bytes(16))
    assert index.lookup([bytes(16)]) == {"w1": 1}


def test_what_looks_alike_is_told_apart() -> None:
    """All sixteen bytes count, zeros at either end included."""
    index = PrefixIndex()
    index.apply("w1", b"", b"a" + bytes(15))
    for other in (b"a" + bytes(14) + b"\1", bytes(15) + b"a", b"a".ljust(15, b"\0") + b"a"):
        assert index.lookup([other]) == {"w1": 0}
    assert index.lookup([b"a" + bytes(15)]) == {"w1": 1}


def test_churn_of_workers_leaves_nothing_behind() -> None:
    index, chance = PrefixIndex(), random.Random(1)
    for round in range(200):
        index.apply(f"pod-{round}", b"", chance.randbytes(16 * 50))
        index.drop(f"pod-{round - 3}")
    assert len(index.pages) == 3
    for round in range(197, 200):
        index.drop(f"pod-{round}")
    assert (len(index), index.pages) == (0, {})
