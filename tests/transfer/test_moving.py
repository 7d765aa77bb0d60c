"""Pages really move between two processes, and nothing else changes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from tests.transfer.side import HEADS, LAYOUT, Far, Side, pull, push

from baton.transfer.layout import PoolLayout, Span, rank_pairs, shard_heads
from baton.transfer.messages import PeerInfo
from baton.transfer.orders import Landed, Limits, Moved, Outcome, Quieted, Taken


def shards(count: int) -> list[PoolLayout]:
    return [
        replace(LAYOUT, first_kv_head=first, kv_heads=heads)
        for first, heads in (shard_heads(HEADS, count, rank) for rank in range(count))
    ]


def noise(layout: PoolLayout, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(layout.bytes)


def pool(data: bytes, layout: PoolLayout) -> np.ndarray:
    """[pages, heads, head_bytes], a copy."""
    return np.frombuffer(data, np.uint8).reshape(layout.pages, layout.kv_heads, layout.head_bytes).copy()


@pytest.fixture(scope="module")
def there(far: Far) -> PeerInfo:
    """A rank of the far side that several tests use."""
    info = far.open("shared", LAYOUT)
    assert isinstance(info, PeerInfo)
    return info


@pytest.fixture
def here(near: Side, there: PeerInfo) -> Iterator[PeerInfo]:
    """A rank of this process that has met the far one."""
    info = near.open("here", LAYOUT)
    near.meet("here", there)
    yield info


@pytest.mark.parametrize("pulling", [False, True], ids=["push", "pull"])
@pytest.mark.parametrize(("of", "to"), [(1, 1), (2, 1), (1, 2), (4, 2), (2, 4), (8, 2), (2, 8)])
def test_every_tensor_parallel_pair_moves_the_right_heads(
    near: Side, far: Far, of: int, to: int, pulling: bool
) -> None:
    sources, destinations = shards(of), shards(to)
    # the far side is always the one that is written to by a push, or read from by a pull
    near_layouts, far_layouts = (destinations, sources) if pulling else (sources, destinations)
    nears = [near.open(f"n{rank}", layout, rank) for rank, layout in enumerate(near_layouts)]
    fars = [far.open(f"f{rank}", layout, rank) for rank, layout in enumerate(far_layouts)]
    src, dst = (far, near) if pulling else (near, far)
    src_name, dst_name = ("f", "n") if pulling else ("n", "f")
    truth = pool(noise(LAYOUT, 1), LAYOUT)
    for rank, layout in enumerate(sources):
        first = layout.first_kv_head
        src.put(f"{src_name}{rank}", truth[:, first : first + layout.kv_heads].tobytes())
    before = [pool(noise(layout, 10 + rank), layout) for rank, layout in enumerate(destinations)]
    for rank, data in enumerate(before):
        dst.put(f"{dst_name}{rank}", data.tobytes())
    src_pages, dst_pages = [3, 4, 5, 9, 20, 7], [11, 12, 13, 2, 22, 1]

    for pair in rank_pairs(sources, destinations):
        mine, theirs = (pair.destination, pair.source) if pulling else (pair.source, pair.destination)
        near.meet(f"n{mine}", fars[theirs])
        order = (
            pull(fars[theirs].incarnation, dst_pages, src_pages, span=pair.span)
            if pulling
            else push(fars[theirs].incarnation, src_pages, dst_pages, span=pair.span)
        )
        far.expect(f"f{theirs}", order.attempt, {nears[mine].incarnation: mine})
        near.move(f"n{mine}", order)
        moved = near.wait(f"n{mine}", Moved)
        assert (moved.outcome, moved.bytes) == (
            Outcome.DONE,
            len(src_pages) * pair.span.heads * LAYOUT.head_bytes,
        )
        note = far.wait(f"f{theirs}", Taken if pulling else Landed)
        assert (note.attempt, note.rank, note.complete) == (order.attempt, mine, True)

    for rank, layout in enumerate(destinations):
        want = before[rank]
        first = layout.first_kv_head
        want[dst_pages] = truth[src_pages, first : first + layout.kv_heads]
        got = pool(dst.get(f"{dst_name}{rank}"), layout)
        # meeting has moved the scratch page, which nobody owns
        assert np.array_equal(got[1:], want[1:]), "a byte is wrong that should be right, or changed"
    for rank in range(len(fars)):
        far.close(f"f{rank}")


def test_200_random_transfers_leave_what_a_copy_would_leave(near: Side, far: Far, there: PeerInfo) -> None:
    near.open("here", LAYOUT, 0, Limits(window=2, part_descriptors=3, part_bytes=4 * LAYOUT.page_bytes))
    near.meet("here", there)
    rng = random.Random(0)
    mine, theirs = pool(noise(LAYOUT, 3), LAYOUT), pool(noise(LAYOUT, 4), LAYOUT)
    near.put("here", mine.tobytes())
    far.put("shared", theirs.tobytes())
    for _ in range(200):
        count, heads = rng.randint(1, 12), rng.randint(1, HEADS)
        local, remote = rng.sample(range(1, 24), count), rng.sample(range(1, 24), count)
        if rng.random() < 0.4:
            start = rng.randint(1, 23 - count)
            local = remote = list(range(start, start + count))
        a, b = rng.randint(0, HEADS - heads), rng.randint(0, HEADS - heads)
        span = Span(a, b, heads)
        if rng.random() < 0.5:
            near.move("here", push(there.incarnation, local, remote, span=span))
            theirs[remote, b : b + heads] = mine[local, a : a + heads]
        else:
            near.move("here", pull(there.incarnation, local, remote, span=span))
            mine[local, b : b + heads] = theirs[remote, a : a + heads]
        moved = near.wait("here", Moved)
        assert (moved.outcome, moved.quiet) == (Outcome.DONE, True)
    assert np.array_equal(pool(near.get("here"), LAYOUT)[1:], mine[1:])
    assert np.array_equal(pool(far.get("shared"), LAYOUT)[1:], theirs[1:])
    counts = near.ranks["here"].mover.counts()
    assert (counts.taken, counts.ended, counts.under_way) == (200, {Outcome.DONE: 200}, 0)


def test_a_note_never_comes_before_its_data(near: Side, far: Far) -> None:
    layout = replace(LAYOUT, layers=64, page_size=16, head_dim=64, pages=65)  # 1 MiB a page
    there, here = far.open("large", layout), near.open("large", layout)
    near.meet("large", there)
    pages = list(range(1, 65))
    for round_ in range(3):
        near.ranks["large"].pool[layout.page_bytes :] = round_ + 1
        order = push(there.incarnation, pages, pages)
        far.expect("large", order.attempt, {here.incarnation: 0})
        near.move("large", order)
        far.wait("large", Landed)
        assert far.is_all("large", round_ + 1)
    far.close("large")


def test_chunks_land_one_by_one_and_the_last_completes(
    near: Side, far: Far, here: PeerInfo, there: PeerInfo
) -> None:
    far.expect("shared", "chunked", {here.incarnation: 0})
    for chunk in range(3):
        pages = [] if chunk == 2 else [1 + chunk, 4 + chunk]  # the last one only says that it was the last
        near.move(
            "here",
            push(there.incarnation, pages, pages, attempt="chunked", chunk=chunk, last=chunk == 2),
        )
    notes = sorted((far.wait("shared", Landed) for _ in range(3)), key=lambda note: note.chunk)
    assert [(note.chunk, note.last) for note in notes] == [(0, False), (1, False), (2, True)]
    assert sum(note.complete for note in notes) == 1
    near.move("here", push(there.incarnation, [1], [1], attempt="chunked", chunk=3))
    near.wait("here", Moved)
    assert far.rest("shared") == [], "a completed attempt is expected no longer"


def test_nothing_is_sent_before_the_pages_are_written(
    near: Side, far: Far, here: PeerInfo, there: PeerInfo
) -> None:
    written = False
    order = push(there.incarnation, [5], [5], ready=lambda: written)
    near.move("here", order)
    far.expect("shared", order.attempt, {here.incarnation: 0})
    mine = pool(noise(LAYOUT, 8), LAYOUT)
    near.put("here", mine.tobytes())
    assert near.rest("here") == []
    written = True
    moved = near.wait("here", Moved)
    assert (moved.outcome, moved.bytes) == (Outcome.DONE, LAYOUT.page_bytes)
    far.wait("shared", Landed)
    assert np.array_equal(pool(far.get("shared"), LAYOUT)[5], mine[5])


def test_many_orders_at_once_all_end(near: Side, far: Far, here: PeerInfo, there: PeerInfo) -> None:
    orders = [push(there.incarnation, [n], [n]) for n in range(1, 24)] * 4
    for n, order in enumerate(orders):
        near.move("here", replace(order, attempt=f"many-{n}"))
    assert {near.wait("here", Moved).attempt for _ in orders} == {f"many-{n}" for n in range(len(orders))}
    assert not [report for report in near.rest("here") if isinstance(report, Quieted)]


def test_a_rank_in_the_same_process_is_a_peer_like_any_other(near: Side, here: PeerInfo) -> None:
    other = near.open("other", LAYOUT)
    near.meet("here", other)
    mine = pool(noise(LAYOUT, 9), LAYOUT)
    near.put("here", mine.tobytes())
    near.move("here", push(other.incarnation, [1, 2], [8, 9]))
    assert near.wait("here", Moved).outcome is Outcome.DONE
    assert np.array_equal(pool(near.get("other"), LAYOUT)[[8, 9]], mine[[1, 2]])


def test_the_path_is_measured_when_peers_meet(near: Side, there: PeerInfo) -> None:
    near.open("fresh", LAYOUT)
    verdict = near.meet("fresh", there)
    measured = verdict.measured
    assert verdict.expected.transport == "shared memory", "both places are read alike in two processes"
    assert measured.write_gbps > 0 and measured.read_gbps > 0 and measured.latency_s < 5
    assert measured.descriptor_bytes == LAYOUT.page_bytes
    assert near.meet("fresh", there) is verdict, "met again, it is not measured again"
