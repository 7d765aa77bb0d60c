"""The pool's layout in memory, and the sizes that the settings give it."""

from __future__ import annotations

import pytest
import torch

from baton.cache.pool import PoolShape, fit_bytes, fit_memory, fit_pages, free_bytes, make_pool
from baton.core.errors import InvalidSetting

CPU = torch.device("cpu")
QWEN3_8B = PoolShape(kv_heads=8, layers=36, page_size=16, head_dim=128, itemsize=2)
SMALL = PoolShape(pages=5, kv_heads=4, layers=3, page_size=2, head_dim=8, itemsize=2)


def test_a_page_of_a_known_model_has_the_known_size() -> None:
    assert QWEN3_8B.page_bytes == 2_359_296
    assert QWEN3_8B.head_bytes * 8 == QWEN3_8B.page_bytes
    assert SMALL.bytes == 5 * 4 * 3 * 2 * 2 * 8 * 2


def test_a_page_and_every_range_of_its_heads_are_one_piece_of_memory() -> None:
    pool = make_pool(SMALL, CPU, torch.bfloat16)
    assert pool.shape == SMALL.dims == (5, 4, 3, 2, 2, 8)
    assert not pool.any()
    for piece in (pool[3], pool[3, 1:3], pool[3, 2, 1]):
        assert piece.is_contiguous()
    start = pool.data_ptr()
    assert pool[3].data_ptr() - start == 3 * SMALL.page_bytes
    assert pool[3, 1].data_ptr() - pool[3].data_ptr() == SMALL.head_bytes


def test_a_pool_in_storage_from_elsewhere_is_a_view_of_it_and_starts_at_zero() -> None:
    storage = torch.full((SMALL.bytes + 100,), 255, dtype=torch.uint8)
    pool = make_pool(SMALL, CPU, torch.float16, storage)
    assert pool.data_ptr() == storage.data_ptr()
    assert pool.shape == SMALL.dims and not pool.any()
    assert storage[SMALL.bytes :].eq(255).all(), "what lies behind the pool is not its own"
    pool[4] = 1.0
    assert storage[4 * SMALL.page_bytes : SMALL.bytes].any()


def test_storage_that_cannot_hold_the_pool_is_refused() -> None:
    wide = torch.zeros(SMALL.bytes, 2, dtype=torch.uint8)
    for storage in (torch.zeros(SMALL.bytes - 1, dtype=torch.uint8), wide[:, 0], wide.to("meta")):
        with pytest.raises(AssertionError, match="storage"):
            make_pool(SMALL, CPU, torch.bfloat16, storage)
    with pytest.raises(AssertionError, match="float32"):
        make_pool(SMALL, CPU, torch.float32)


def test_the_fingerprint_is_of_what_both_sides_must_share() -> None:
    other_split = PoolShape(pages=9, kv_heads=2, layers=3, page_size=2, head_dim=8, itemsize=2)
    other_page = PoolShape(pages=5, kv_heads=4, layers=3, page_size=4, head_dim=8, itemsize=2)
    assert SMALL.fingerprint == other_split.fingerprint != other_page.fingerprint


def test_a_budget_of_bytes_gives_the_pages_that_fit_it() -> None:
    budget = 100 * QWEN3_8B.page_bytes
    for spare, pages in ((0, 100), (-1, 99), (QWEN3_8B.page_bytes - 1, 100)):
        shape = fit_bytes(QWEN3_8B, budget + spare, max_model_len=1024, setting="bytes")
        assert shape.pages == pages
        assert shape.bytes <= budget + spare < shape.bytes + shape.page_bytes


def test_one_sequence_of_full_length_must_fit_beside_the_scratch_page() -> None:
    page = QWEN3_8B.page_bytes
    assert fit_bytes(QWEN3_8B, 66 * page, max_model_len=1025, setting="bytes").pages == 66
    with pytest.raises(InvalidSetting) as caught:
        fit_bytes(QWEN3_8B, 66 * page - 1, max_model_len=1025, setting="cache.bytes")
    assert caught.value.setting == "cache.bytes"
    for part in (
        "raise cache.bytes",
        "lower max_model_len",
        "1024 tokens",
        "max_model_len 1025",
        "148.5 MiB",
    ):
        assert part in str(caught.value)
    with pytest.raises(InvalidSetting, match=" 0 tokens"):
        fit_bytes(QWEN3_8B, -1, max_model_len=1, setting="bytes")


def test_a_count_of_pages_leaves_the_scratch_page_out() -> None:
    assert fit_pages(QWEN3_8B, 64, max_model_len=1024).pages == 65
    with pytest.raises(InvalidSetting, match="raise pages to 65 or more"):
        fit_pages(QWEN3_8B, 64, max_model_len=1025)


def test_a_fraction_is_taken_of_the_memory_that_is_free() -> None:
    shape = fit_memory(SMALL, CPU, 0.5, max_model_len=16)
    assert 0.25 * free_bytes(CPU) < shape.bytes < 0.75 * free_bytes(CPU)
    for wrong in (0.0, 1.1, -0.5, float("nan")):
        with pytest.raises(InvalidSetting, match="memory_fraction: must be above 0"):
            fit_memory(SMALL, CPU, wrong, max_model_len=16)
    with pytest.raises(InvalidSetting, match="raise memory_fraction or lower max_model_len"):
        fit_memory(SMALL, CPU, 1e-9, max_model_len=4096)
