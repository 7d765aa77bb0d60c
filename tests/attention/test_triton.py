"""Triton's attention against plain torch: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tests.gpu import reference
from tests.gpu.device import CUDA, DEVICE, HALF, QUIET
from tests.gpu.reference import Shape, error

from baton.attention.base import Scales
from baton.attention.triton import TritonAttention

F32 = torch.float32
TOLERANCE = {HALF: 5e-3, F32: 2e-5}

PROGRAMS = 1056 if CUDA else 24
"""Few in the interpreter, which runs them one after the other; still enough that sequences are cut."""

PREFILL = [(5, 5), (33, 40), (2, 70)]
DECODE = [(1, 1), (1, 16), (1, 133), (1, 64)]

pytestmark = QUIET


def check(shape: Shape, spans: list[tuple[int, int]], window: int | None = None) -> None:
    batch, pool = reference.batch(spans, shape, DEVICE)
    pool[0] = float("nan")  # nobody may read the scratch page
    q = torch.randn(len(batch.positions), shape.heads, shape.head_dim, device=DEVICE).to(shape.dtype)
    scale = shape.head_dim**-0.5
    attention = TritonAttention(pool, shape.heads, shape.kv_heads, scale, window=window, programs=PROGRAMS)
    attention.plan(batch)
    got = attention.attend(q, 1, batch)
    assert got.shape == (len(q), shape.heads * shape.head_dim)
    assert error(got, reference.attention(q, pool, 1, batch, scale, window)) < TOLERANCE[shape.dtype]


@pytest.mark.parametrize("dtype", [HALF, F32])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (8, 1)])
def test_prefill_and_decode_together(heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    check(Shape(heads, kv_heads, 64, dtype=dtype), PREFILL + DECODE)


@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_page_sizes(page_size: int) -> None:
    check(Shape(4, 2, 64, page_size, dtype=F32), [(7, 90), *DECODE])


def test_wide_heads_and_many_to_one() -> None:
    check(Shape(16, 1, 128, dtype=HALF), [(20, 30), (1, 300)])


@pytest.mark.parametrize("window", [1, 20, 64, 1000])
def test_window(window: int) -> None:
    check(Shape(2, 1, 64, dtype=F32), [(40, 140), *DECODE], window)


@pytest.mark.parametrize("dtype", [HALF, F32])
def test_a_pool_of_eight_bits(dtype: torch.dtype) -> None:
    """Prompts, decodes and sequences in parts, each layer by its own scales."""
    shape, scales = Shape(6, 2, 64, dtype=dtype), [Scales(2.0, 0.5), Scales(0.25, 4.0)]
    batch, pool = reference.batch([(5, 5), (9, 40), (1, 1), (1, 70)], shape, DEVICE)
    small, wide = reference.narrowed(pool, scales)
    small[0] = float("nan")  # nobody may read the scratch page
    q = torch.randn(len(batch.positions), 6, 64, device=DEVICE).to(dtype)
    attention = TritonAttention(small, 6, 2, 0.125, programs=PROGRAMS, dtype=dtype, scales=scales)
    for layer, owner in enumerate((attention, attention.graph(2))):
        owner.plan(batch)
        wanted = reference.attention(q, wide, layer, batch, 0.125)
        assert error(owner.attend(q, layer, batch), wanted) < TOLERANCE[dtype]


def test_only_one_kind() -> None:
    check(Shape(2, 1, 64, dtype=F32), PREFILL)
    check(Shape(2, 1, 64, dtype=F32), DECODE)


def test_more_spans_than_are_searched_at_once() -> None:
    check(Shape(1, 1, 64, dtype=F32), [(2 + i % 2, 4 + i % 7) for i in range(66)])
