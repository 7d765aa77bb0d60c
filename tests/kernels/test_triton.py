"""The Triton kernels against plain torch: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tests.gpu import reference
from tests.gpu.device import CUDA, DEVICE, HALF, QUIET
from tests.gpu.reference import Shape, error

from baton.attention.base import Scales
from baton.kernels.triton import TritonKernels, expert_blocks

F32 = torch.float32
TOLERANCE = {HALF: 4e-3, F32: 1e-5}
EPS = 1e-6

pytestmark = QUIET


@pytest.fixture(params=[False, True] if CUDA else [False], ids=lambda pdl: "pdl" if pdl else "plain")
def kernels(request: pytest.FixtureRequest) -> TritonKernels:
    return TritonKernels(pdl=request.param)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random(*size: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    return torch.randn(size, device=DEVICE).to(dtype)


@pytest.mark.parametrize("dtype", [HALF, F32])
@pytest.mark.parametrize(("rows", "hidden"), [(3, 64), (1, 1000), (5, 4096), (2, 8192)])
def test_norm(kernels: TritonKernels, rows: int, hidden: int, dtype: torch.dtype) -> None:
    x, weight = random(rows, hidden, dtype=dtype), random(hidden, dtype=dtype)
    got = kernels.norm(x, weight, EPS)
    assert got.dtype == dtype
    assert error(got, reference.norm(x, weight, EPS)) < TOLERANCE[dtype]


def test_norm_of_heads(kernels: TritonKernels) -> None:
    x, weight = random(7, 3, 64), random(64)
    got = kernels.norm(x, weight, EPS)
    assert got.shape == x.shape
    assert error(got, reference.norm(x, weight, EPS)) < TOLERANCE[HALF]


@pytest.mark.parametrize("dtype", [HALF, F32])
@pytest.mark.parametrize(("rows", "hidden"), [(3, 64), (1, 1000), (4, 5120)])
def test_add_norm(kernels: TritonKernels, rows: int, hidden: int, dtype: torch.dtype) -> None:
    x, residual, weight = (random(*size, dtype=dtype) for size in ((rows, hidden), (rows, hidden), (hidden,)))
    total = (x.float() + residual.float()).to(dtype)
    normal, added = kernels.add_norm(x, residual, weight, EPS)
    assert torch.equal(added, total)
    assert error(normal, reference.norm(total, weight, EPS)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [HALF, F32])
@pytest.mark.parametrize(("rows", "width"), [(1, 96), (3, 1024), (2, 3000)])
def test_silu_mul(kernels: TritonKernels, rows: int, width: int, dtype: torch.dtype) -> None:
    gate_up = random(rows, 2 * width, dtype=dtype)
    got = kernels.silu_mul(gate_up)
    assert error(got, reference.silu_mul(gate_up)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [HALF, F32])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size"),
    [(4, 4, 64, 16), (8, 1, 128, 16), (12, 3, 128, 64), (32, 2, 64, 1), (5, 1, 64, 4)],
)
@pytest.mark.parametrize("with_norms", [False, True])
def test_rotate_store(
    kernels: TritonKernels,
    heads: int,
    kv_heads: int,
    head_dim: int,
    page_size: int,
    with_norms: bool,
    dtype: torch.dtype,
) -> None:
    shape = Shape(heads, kv_heads, head_dim, page_size, layers=3, dtype=dtype)
    spans, pool = reference.batch([(5, 70), (3, 3), (1, 33), (1, 1)], shape, DEVICE)
    cos_sin = reference.rope_table(128, head_dim, DEVICE)
    qkv = random(len(spans.positions), (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    norms = (random(head_dim, dtype=dtype), random(head_dim, dtype=dtype)) if with_norms else None
    expected_pool = pool.clone()
    expected = reference.rotate_store(qkv, expected_pool, 1, spans, cos_sin, norms, EPS)
    got = kernels.rotate_store(qkv, pool, 1, spans, cos_sin, norms, EPS)
    assert got.is_contiguous()
    assert error(got, expected) < TOLERANCE[dtype]
    assert error(pool, expected_pool) < TOLERANCE[dtype]
    untouched = torch.ones(pool.shape[0], dtype=torch.bool)
    untouched[
        spans.table[spans.token_rows.long().cpu(), (spans.positions // page_size).long().cpu()].cpu()
    ] = False
    assert torch.equal(pool[untouched], expected_pool[untouched])
    assert torch.equal(pool[:, :, (0, 2)], expected_pool[:, :, (0, 2)])


@pytest.mark.parametrize("dtype", [HALF, F32])
def test_rotate_store_into_eight_bits(kernels: TritonKernels, dtype: torch.dtype) -> None:
    """Numbers that eight bits hold, times their scale, come back as they are, too large ones as the largest;
    the rest of the pool stays as it was. The interpreter does not round as hardware does: see tests/gpu."""
    shape, scales = Shape(3, 2, 64, 4, layers=2, dtype=dtype), Scales(0.25, 2.0)
    spans, pool = reference.batch([(2, 9), (1, 5)], shape, DEVICE)
    pool, _ = reference.narrowed(pool, [Scales()] * 2)
    qkv = reference.kept(random(3, 7 * 64, dtype=F32).clamp(min=0.25), 1.0, reference.EIGHT).to(dtype)
    qkv[1, 3 * 64 :] = 6e4
    still = torch.cat((torch.ones(16, 32), torch.zeros(16, 32)), dim=1).to(DEVICE)  # turns nothing
    expected_pool = pool.clone()
    expected = reference.rotate_store(qkv, expected_pool, 1, spans, still, None, EPS, scales)
    got = kernels.rotate_store(qkv, pool, 1, spans, still, None, EPS, scales)
    assert error(got, expected) < TOLERANCE[dtype]
    assert torch.equal(pool.view(torch.uint8), expected_pool.view(torch.uint8))
    assert float(pool[:, :, 1].float().abs().max()) == 448


@pytest.mark.parametrize(
    ("tokens", "choices", "count", "hidden", "inner", "dtype"),
    [
        (1, 2, 4, 64, 96, HALF),
        (7, 4, 8, 128, 64, F32),
        (40, 2, 3, 96, 80, HALF),
        (30, 2, 4, 64, 64, HALF),
        (100, 2, 4, 64, 64, HALF),
        (260, 2, 2, 64, 72, HALF),
    ],
)
def test_experts(
    kernels: TritonKernels, tokens: int, choices: int, count: int, hidden: int, inner: int, dtype: torch.dtype
) -> None:
    x = random(tokens, hidden, dtype=dtype)
    gate_up = random(count, 2 * inner, hidden, dtype=dtype) / hidden**0.5
    down = random(count, hidden, inner, dtype=dtype) / inner**0.5
    weights, chosen = torch.randn(tokens, count, device=DEVICE).softmax(-1).topk(choices)
    got = kernels.experts(x, gate_up, down, weights, chosen)
    assert error(got, reference.experts(x, gate_up, down, weights, chosen)) < TOLERANCE[dtype]


def test_one_expert_may_get_every_token(kernels: TritonKernels) -> None:
    x, gate_up, down = random(50, 64), random(8, 128, 64) / 8, random(8, 64, 64) / 8
    chosen = torch.full((50, 1), 5, device=DEVICE)
    weights = torch.ones(50, 1, device=DEVICE)
    got = kernels.experts(x, gate_up, down, weights, chosen)
    assert error(got, reference.experts(x, gate_up, down, weights, chosen)) < TOLERANCE[HALF]


def test_nothing_to_do(kernels: TritonKernels) -> None:
    x = random(0, 64)
    assert kernels.norm(x, random(64), EPS).shape == (0, 64)
    assert kernels.silu_mul(x).shape == (0, 32)
    assert kernels.add_norm(x, x, random(64), EPS)[0].shape == (0, 64)


def test_every_tile_of_the_grouped_products_is_tried() -> None:
    """The cases above reach each choice of tile."""
    cases = [(2, 4), (60, 4), (200, 4), (520, 2)]
    assert len({expert_blocks(pairs, count, HALF) for pairs, count in cases}) == 4


def test_the_grouped_products_fit_a_smaller_device() -> None:
    for each in (1, 10, 100, 1000):
        m, n, k, _, stages = expert_blocks(each, 1, HALF, 99 << 10)
        assert stages >= 2
        assert (m + 2 * n) * k * 2 * stages <= 99 << 10
