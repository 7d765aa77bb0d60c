"""Who sends which heads to whom, and where those bytes are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.core.errors import ProtocolMismatch
from baton.transfer.layout import (
    PoolLayout,
    cut,
    extents,
    in_runs,
    rank_pairs,
    shard_heads,
    strided,
)

BASE = PoolLayout(
    pages=7,
    layers=3,
    page_size=4,
    head_dim=8,
    dtype="bfloat16",
    kv_heads=4,
    total_kv_heads=4,
    model="m",
)


def ranks(total: int, count: int) -> list[PoolLayout]:
    shards = [shard_heads(total, count, rank) for rank in range(count)]
    return [
        replace(BASE, kv_heads=heads, first_kv_head=first, total_kv_heads=total) for first, heads in shards
    ]


def test_a_page_and_a_head_have_the_bytes_of_the_tensor() -> None:
    assert BASE.head_bytes == 3 * 2 * 4 * 8 * 2
    assert BASE.page_bytes == 4 * BASE.head_bytes
    assert BASE.bytes == 7 * BASE.page_bytes
    qwen = replace(BASE, layers=36, page_size=16, head_dim=128, kv_heads=8, total_kv_heads=8)
    assert qwen.page_bytes == 2_359_296


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 4},
        {"page_size": 8},
        {"head_dim": 16},
        {"dtype": "float16"},
        {"dtype": "float8_e4m3fn"},
        {"model": "n"},
    ],
    ids=str,
)
def test_the_fingerprint_differs_when_pages_could_not_be_exchanged(change: dict[str, object]) -> None:
    assert replace(BASE, **change).fingerprint() != BASE.fingerprint()


def test_the_fingerprint_is_equal_whatever_pages_and_heads_a_rank_has() -> None:
    assert {layout.fingerprint() for layout in (*ranks(4, 1), *ranks(4, 2), replace(BASE, pages=99))} == {
        BASE.fingerprint()
    }
    assert ranks(8, 2)[0].fingerprint() != ranks(4, 1)[0].fingerprint(), "another model's heads"


@pytest.mark.parametrize(
    "wrong",
    [
        {"pages": 0},
        {"kv_heads": 0},
        {"kv_heads": 5},
        {"first_kv_head": 1},
        {"first_kv_head": -1, "kv_heads": 1},
        {"dtype": "int7"},
    ],
    ids=str,
)
def test_an_impossible_layout_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ProtocolMismatch):
        replace(BASE, **wrong)


def test_heads_are_sharded_or_shared() -> None:
    assert [shard_heads(8, 4, rank) for rank in range(4)] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    assert [shard_heads(2, 4, rank) for rank in range(4)] == [(0, 1), (0, 1), (1, 1), (1, 1)]
    with pytest.raises(ProtocolMismatch):
        shard_heads(4, 3, 0)


@pytest.mark.parametrize("total", [1, 2, 4, 8])
@pytest.mark.parametrize("to", [1, 2, 4, 8])
@pytest.mark.parametrize("of", [1, 2, 4, 8])
def test_every_head_of_every_destination_comes_from_one_source_that_holds_it(
    total: int, of: int, to: int
) -> None:
    sources, destinations = ranks(total, of), ranks(total, to)
    got: dict[tuple[int, int], int] = {}
    for pair in rank_pairs(sources, destinations):
        source, span = sources[pair.source], pair.span
        assert span.source_head + span.heads <= source.kv_heads
        for offset in range(span.heads):
            slot = (pair.destination, span.destination_head + offset)
            assert slot not in got, "a head is sent twice"
            got[slot] = source.first_kv_head + span.source_head + offset
    wanted = {
        (rank, offset): layout.first_kv_head + offset
        for rank, layout in enumerate(destinations)
        for offset in range(layout.kv_heads)
    }
    assert got == wanted


@pytest.mark.parametrize("total", [1, 2, 4, 8])
@pytest.mark.parametrize("to", [1, 2, 4, 8])
@pytest.mark.parametrize("of", [1, 2, 4, 8])
def test_two_ranks_exchange_one_run_of_heads_at_most(total: int, of: int, to: int) -> None:
    pairs = rank_pairs(ranks(total, of), ranks(total, to))
    assert len({(pair.source, pair.destination) for pair in pairs}) == len(pairs)


def test_ranks_that_share_a_head_share_the_sending_too() -> None:
    assert [(p.source, p.destination) for p in rank_pairs(ranks(2, 4), ranks(2, 4))] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    assert [p.source for p in rank_pairs(ranks(1, 2), ranks(1, 4))] == [0, 0, 1, 1]


def test_pools_that_cannot_exchange_pages_make_no_pairs() -> None:
    with pytest.raises(ProtocolMismatch, match="cannot exchange"):
        rank_pairs([BASE], [replace(BASE, model="n")])
    with pytest.raises(ProtocolMismatch, match="without ranks"):
        rank_pairs([], [BASE])
    with pytest.raises(ProtocolMismatch, match="no rank of the source holds"):
        rank_pairs(ranks(4, 2)[:1], [BASE])


def test_extents_are_where_the_tensor_has_those_heads() -> None:
    tensor = np.arange(BASE.bytes, dtype=np.int64).reshape(BASE.pages, BASE.kv_heads, BASE.head_bytes)
    for (offset, length), page in zip(extents(BASE, 1, 2, [5, 0, 6]).tolist(), [5, 0, 6], strict=True):
        assert np.array_equal(np.arange(offset, offset + length), tensor[page, 1:3].ravel())
    with pytest.raises(ProtocolMismatch):
        extents(BASE, 3, 2, [0])
    with pytest.raises(ProtocolMismatch):
        extents(BASE, 0, 1, [7])


def test_a_strided_row_says_the_same_as_extents() -> None:
    ((address, length, device, stride, count),) = strided(BASE, 1 << 40, 3, 1, 2).tolist()
    entries = [[address + page * stride, length] for page in range(count)]
    there = np.add(extents(BASE, 1, 2, range(BASE.pages)), [1 << 40, 0])
    assert (entries, device) == (there.tolist(), 3)


pairs_of_pages = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.permutations(range(64)).map(lambda p: p[:n]), st.permutations(range(64)).map(lambda p: p[:n])
    )
)


@given(pairs_of_pages)
def test_ordering_keeps_the_pairs_and_puts_neighbours_together(pages: tuple[list[int], list[int]]) -> None:
    local, remote = pages
    here, there = in_runs(local, remote)
    pairs = set(zip(local, remote, strict=True))
    assert sorted(zip(here.tolist(), there.tolist(), strict=True)) == sorted(pairs)
    following = set(zip(zip(here, there, strict=True), zip(here[1:], there[1:], strict=True), strict=False))
    for mine, theirs in pairs:
        if (mine + 1, theirs + 1) in pairs:
            assert ((mine, theirs), (mine + 1, theirs + 1)) in following


@given(pairs_of_pages, st.booleans(), st.integers(1, 9), st.integers(1, 12))
def test_parts_cover_all_pages_once_and_keep_their_bounds(
    pages: tuple[list[int], list[int]], whole: bool, descriptors: int, most: int
) -> None:
    here, there = in_runs(*pages)
    # a few long runs among the scattered pages
    here, there = np.concatenate([here, np.arange(100, 130)]), np.concatenate([there, np.arange(200, 230)])
    parts = cut(here, there, whole=whole, page_bytes=10, descriptors=descriptors, part_bytes=10 * most + 9)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == here.size
    for part in parts:
        mine, theirs = here[part], there[part]
        runs = 1 + int(((np.diff(mine) != 1) | (np.diff(theirs) != 1) | (not whole)).sum())
        assert 1 <= mine.size <= most
        assert runs <= descriptors


def test_a_long_run_is_one_part_and_scattered_pages_are_cut() -> None:
    run = np.arange(500, dtype=np.int32)
    assert cut(run, run, whole=True, page_bytes=1, descriptors=4, part_bytes=1 << 20) == [slice(0, 500)]
    assert len(cut(run, run[::-1], whole=True, page_bytes=1, descriptors=4, part_bytes=1 << 20)) == 125
    assert cut(run[:0], run[:0], whole=True, page_bytes=1, descriptors=4, part_bytes=1) == []


def test_unequal_page_lists_are_refused() -> None:
    with pytest.raises(ProtocolMismatch):
        in_runs([1, 2], [1])
