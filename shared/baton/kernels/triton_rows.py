# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Triton kernels that go over rows: RMS norm, add with RMS norm, SiLU with product.

Launched by `kernels.triton` alone, which owns shapes and launch options. Each reads its inputs once and
writes its outputs once. Where transformers rounds to the model's dtype between two operations, so do these.
Under programmatic dependent launch (PDL) a kernel may start before the one it depends on has ended: nothing
but weights may be touched before `gdc_wait`, and every kernel waits, so that completion stays transitive.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _normal(value, weight, eps, H: tl.constexpr, DTYPE: tl.constexpr):
    """RMS norm of value [R, BLOCK] float32, rounded to DTYPE before and after the weight."""
    scale = tl.rsqrt(tl.sum(value * value, 1) / H + eps)
    return ((value * scale[:, None]).to(DTYPE).to(tl.float32) * weight).to(DTYPE)


@triton.jit(do_not_specialize=["rows"])
def norm_rows(
    x, weight, out, rows, stride, eps,
    H: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, BLOCK)
    scale = tl.load(weight + column, mask=column < H, other=0.0).to(tl.float32)
    inside = (row < rows)[:, None] & (column < H)[None, :]
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    value = tl.load(x + row[:, None] * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    result = _normal(value, scale[None, :], eps, H, out.dtype.element_ty)
    tl.store(out + row[:, None] * H + column[None, :], result, mask=inside)


@triton.jit
def add_norm_rows(
    x, residual, weight, eps, H: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """In place: residual becomes x + residual, x becomes its norm."""
    row = tl.program_id(0).to(tl.int64) * H
    column = tl.arange(0, BLOCK)[None, :]
    inside = column < H
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    value = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(residual + row + column, mask=inside, other=0.0).to(tl.float32)
    total = (value + before).to(residual.dtype.element_ty)
    tl.store(residual + row + column, total, mask=inside)
    tl.store(x + row + column, _normal(total.to(tl.float32), scale, eps, H, x.dtype.element_ty), mask=inside)


@triton.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def silu_mul_rows(gate_up, out, INNER: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    blocks: tl.constexpr = (INNER + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = column < INNER
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    gate = tl.load(gate_up + row * 2 * INNER + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * INNER + INNER + column, mask=inside, other=0.0).to(tl.float32)
    rounded = silu(gate).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * INNER + column, (rounded * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def scale_rows(
    x, out, scales, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Each row divided by its scale, so that its largest value becomes LARGEST, and rounded; read twice."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    top = tl.zeros([BLOCK], tl.float32)
    for begin in tl.static_range(0, DEPTH, BLOCK):
        at = begin + lane
        value = tl.load(x + row * DEPTH + at, mask=at < DEPTH, other=0.0).to(tl.float32)
        top = tl.maximum(top, tl.abs(value))
    scale = tl.div_rn(tl.maximum(tl.max(top, 0), SMALLEST), LARGEST)
    tl.store(scales + row, scale)
    for begin in tl.static_range(0, DEPTH, BLOCK):
        at = begin + lane
        value = tl.load(x + row * DEPTH + at, mask=at < DEPTH, other=0.0).to(tl.float32)
        value = tl.minimum(tl.maximum(tl.div_rn(value, scale), -LARGEST), LARGEST)
        tl.store(out + row * DEPTH + at, value.to(out.dtype.element_ty), mask=at < DEPTH)
