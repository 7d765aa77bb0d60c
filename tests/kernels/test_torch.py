"""The reference kernels against their definitions."""

from __future__ import annotations

import pytest
import torch
from tests.rounded import eight_bits

from baton.attention import Scales
from baton.kernels import TorchKernels
from baton.testing.paged import deal_pages, spans_of

KERNELS = TorchKernels()


def rotated_one(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """One head of one token, pair by pair."""
    half = len(x) // 2
    out = torch.empty_like(x)
    for pair in range(half):
        a, b = x[pair], x[half + pair]
        out[pair] = a * cos[pair] - b * sin[pair]
        out[half + pair] = b * cos[pair] + a * sin[pair]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_rounds_where_transformers_rounds(dtype: torch.dtype) -> None:
    x, weight = (3 * torch.randn(5, 16)).to(dtype), torch.randn(16).to(dtype)
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-3)
    assert torch.equal(KERNELS.norm(x, weight, 1e-3), weight * scaled.to(dtype))


def test_add_norm_returns_the_sum_and_its_norm() -> None:
    x, residual, weight = torch.randn(5, 16), torch.randn(5, 16), torch.randn(16)
    total = x + residual
    normed, kept = KERNELS.add_norm(x, residual, weight, 1e-6)
    assert torch.equal(kept, total)
    assert torch.equal(normed, KERNELS.norm(total, weight, 1e-6))


def test_silu_mul() -> None:
    x = torch.randn(4, 10)
    wanted = x[:, :5] / (1 + torch.exp(-x[:, :5])) * x[:, 5:]
    torch.testing.assert_close(KERNELS.silu_mul(x), wanted)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("page_size", [1, 4])
def test_rotate_store_writes_each_token_to_its_slot_and_nothing_else(normed: bool, page_size: int) -> None:
    torch.manual_seed(3)
    heads, kv_heads, width, layers, layer = 4, 2, 6, 3, 1
    parts = [(0, 3, 4), (2, 0, 2), (1, 6, 1)]
    tables = deal_pages([7, 7, 2], page_size, seed=5)
    spans = spans_of(tables, parts)
    pool = torch.full((40, kv_heads, layers, 2, page_size, width), 7.0)
    untouched = pool.clone()
    qkv, table = torch.randn(7, (heads + 2 * kv_heads) * width), torch.randn(10, width)
    norms = (torch.randn(width), torch.randn(width)) if normed else None

    q = KERNELS.rotate_store(qkv, pool, layer, spans, table, norms, 1e-6)

    by_head = qkv.view(7, -1, width)
    token = 0
    for row, first, new in parts:
        for position in range(first, first + new):
            cos, sin = table[position].chunk(2)

            def turned(head: int, norm: int, token: int = token, at: tuple = (cos, sin)) -> torch.Tensor:
                x = by_head[token, head]
                return rotated_one(KERNELS.norm(x, norms[norm], 1e-6) if norms else x, *at)

            for head in range(heads):
                torch.testing.assert_close(q[token, head], turned(head, 0))
            place = (tables[row][position // page_size], position % page_size)
            for head in range(kv_heads):
                slot = pool[place[0], head, layer, :, place[1]]
                torch.testing.assert_close(slot[0], turned(heads + head, 1))
                assert torch.equal(slot[1], by_head[token, heads + kv_heads + head])
            untouched[place[0], :, layer, :, place[1]] = pool[place[0], :, layer, :, place[1]]
            token += 1
    assert torch.equal(pool, untouched)


def test_rotation_is_computed_in_float32_for_narrow_types() -> None:
    spans = spans_of([[1]], [(0, 0, 1)])
    pool = torch.zeros(2, 1, 1, 2, 1, 8, dtype=torch.bfloat16)
    qkv, table = torch.randn(1, 24).bfloat16(), torch.randn(1, 8)
    q = KERNELS.rotate_store(qkv, pool, 0, spans, table, None, 1e-6)
    wide = rotated_one(qkv[0, :8].float(), *table[0].chunk(2))
    assert torch.equal(q[0, 0], wide.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pool_of_eight_bits_gets_the_nearest_numbers_and_only_finite_ones(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    spans, scales = spans_of([[1, 2]], [(0, 0, 6)]), Scales(0.25, 4.0)
    qkv, table = (torch.randn(6, 3 * 8) * 10 ** torch.linspace(-4, 6, 24)).to(dtype), torch.randn(6, 8)
    wide, pool = torch.zeros(3, 1, 2, 2, 4, 8, dtype=dtype), torch.zeros(3, 1, 2, 2, 4, 8)
    pool = pool.to(torch.float8_e4m3fn)
    q = KERNELS.rotate_store(qkv, wide, 1, spans, table, None, 1e-6)
    assert torch.equal(KERNELS.rotate_store(qkv, pool, 1, spans, table, None, 1e-6, scales), q)
    for which, scale in ((0, scales.k), (1, scales.v)):
        kept = pool[:, :, 1, which].float() * scale
        assert torch.equal(kept.to(dtype), eight_bits(wide[:, :, 1, which], scale))
        assert float(kept.abs().max()) == 448 * scale < float(wide[:, :, 1, which].abs().max())
    assert not pool[:, :, 0].float().any()


def test_experts_are_the_weighted_sum_of_those_chosen() -> None:
    torch.manual_seed(0)
    tokens, hidden, inner, experts = 5, 6, 4, 3
    x = torch.randn(tokens, hidden)
    gate_up, down = torch.randn(experts, 2 * inner, hidden), torch.randn(experts, hidden, inner)
    chosen = torch.tensor([[0, 2], [2, 0], [0, 2], [2, 0], [0, 2]])
    weights = torch.rand(tokens, 2)
    wanted = torch.zeros_like(x)
    for token in range(tokens):
        for place in range(2):
            expert = chosen[token, place]
            inside = KERNELS.silu_mul(gate_up[expert] @ x[token])
            wanted[token] += weights[token, place] * (down[expert] @ inside)
    torch.testing.assert_close(KERNELS.experts(x, gate_up, down, weights, chosen), wanted)
