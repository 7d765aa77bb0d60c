"""Torch attention against the plain formula, one query at a time, over pools full of other numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baton.attention import Scales, TorchAttention
from baton.attention.torch import QUERY_TILE, bucketed_by_size
from baton.testing.paged import deal_pages, spans_of

LAYERS, KV_HEADS, HEADS, HEAD_DIM = 3, 2, 6, 8
SCALE = 0.3
WINDOWS = (None, 5, 40)


def one_by_one(
    q: Tensor,
    pool: Tensor,
    layer: int,
    window: int | None,
    tables: Sequence[Sequence[int]],
    parts: Sequence[tuple[int, int, int]],
) -> Tensor:
    """The definition: every query alone, in float64."""
    size, rows, token = pool.shape[4], [], 0
    for row, first, new in parts:
        for position in range(first, first + new):
            seen = range(0 if window is None else max(0, position - window + 1), position + 1)
            kv = torch.stack([pool[tables[row][at // size], :, layer, :, at % size] for at in seen]).double()
            heads = []
            for head in range(HEADS):
                k, v = kv[:, head * KV_HEADS // HEADS].unbind(1)
                heads.append(torch.softmax(k @ q[token, head].double() * SCALE, 0) @ v)
            rows.append(torch.cat(heads))
            token += 1
    return torch.stack(rows).float()


def check(
    parts: Sequence[tuple[int, int, int]],
    page_size: int,
    *,
    prefills: int | None = None,
    seed: int = 0,
    eight_bits: bool = False,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = [0] * (1 + max(row for row, _, _ in parts))
    for row, first, new in parts:
        lengths[row] = first + new
    tables = deal_pages(lengths, page_size, seed)
    pages = 1 + sum(map(len, tables))
    pool = 3 * torch.randn(pages, KV_HEADS, LAYERS, 2, page_size, HEAD_DIM, generator=generator)
    # What no sequence owns may be anything finite, and a row's unused columns any number.
    pool[0] = 1e30
    width = max(map(len, tables)) + 2
    spans = spans_of(
        [[*table, *random.Random(seed).choices([-1, 10**6], k=width - len(table))] for table in tables],
        parts,
        prefills=prefills,
    )
    q = torch.randn(sum(new for _, _, new in parts), HEADS, HEAD_DIM, generator=generator)
    attention = TorchAttention(pool, HEADS, SCALE, WINDOWS)
    if eight_bits:
        pool[0] = 448.0
        small, scales = pool.to(torch.float8_e4m3fn), [Scales(0.5, 3.0), Scales(), Scales(1.0, 0.25)]
        attention = TorchAttention(small, HEADS, SCALE, WINDOWS, dtype=q.dtype, scales=scales)
        factors = torch.tensor([[one.k, one.v] for one in scales])
        pool = small.float() * factors[:, :, None, None]
    attention.plan(spans)
    for layer, window in enumerate(WINDOWS):
        found = attention.attend(q, layer, spans)
        wanted = one_by_one(q, pool, layer, window, tables, parts)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_a_mixed_batch(page_size: int) -> None:
    check([(3, 0, 9), (0, 6, 7), (1, 20, 1), (2, 0, 1), (4, 63, 1), (5, 16, 1)], page_size)


def test_a_pool_of_eight_bits_is_read_with_its_scales() -> None:
    check([(3, 0, 9), (0, 6, 7), (1, 20, 1), (2, 0, 1), (4, 63, 1), (5, 16, 1)], 4, eight_bits=True)
    check([(0, 0, QUERY_TILE + 20)], 16, eight_bits=True)


def test_decode_alone_and_prefill_alone() -> None:
    check([(0, 30, 1), (1, 31, 1), (2, 32, 1)], 16)
    check([(0, 0, 33)], 16)
    check([(0, 12, 1), (1, 0, 1)], 16, prefills=2)


def test_prefill_longer_than_a_tile_of_queries() -> None:
    check([(0, 0, QUERY_TILE + 20)], 16)
    check([(0, 50, 2 * QUERY_TILE + 3)], 64)


def test_lengths_so_different_that_buckets_are_cut() -> None:
    lengths = [3000, 5, 2900, 1, 17, 40, 3]
    page_bytes = 2 * KV_HEADS * 16 * HEAD_DIM * 4
    assert len(list(bucketed_by_size([-(-n // 16) for n in lengths], (640 << 10) // page_bytes))) > 1
    check([(row, length - 1, 1) for row, length in enumerate(lengths)], 16)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_batch(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 5))
    prefills = data.draw(st.integers(0, rows))
    parts = [
        (row, data.draw(st.integers(0, 30)), data.draw(st.integers(1, 20)) if row < prefills else 1)
        for row in range(rows)
    ]
    check(
        parts,
        data.draw(st.sampled_from([1, 2, 8, 16])),
        prefills=prefills,
        seed=data.draw(st.integers(0, 99)),
    )


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(0, 300))
def test_buckets_hold_everyone_once_and_waste_little(sizes: list[int], worth: int) -> None:
    buckets = list(bucketed_by_size(sizes, worth))
    assert sorted(index for bucket in buckets for index in bucket) == list(range(len(sizes)))
    padded = sum(max(sizes[index] for index in bucket) * len(bucket) for bucket in buckets)
    assert padded - sum(sizes) <= worth * len(sizes)
    if len(buckets) > 1:
        one = max(sizes) * len(sizes)
        assert padded + worth * (len(buckets) - 1) < one


def test_one_window_for_each_layer() -> None:
    with pytest.raises(ValueError, match="2 windows for 3 layers"):
        TorchAttention(torch.zeros(2, 1, 3, 2, 4, 8), 1, 1.0, (None, None))
