# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The Triton kernel between the QKV projection and attention: QK-norm, rope, and the write into the pool.

Launched by `kernels.triton` alone. qkv is read once; q is written out, k and v go to the page and slot that
the page table gives each token, in eight bits where the pool has them. Padding tokens write to the scratch
page like any other.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LARGEST = tl.constexpr(448.0)
"""Of float8_e4m3fn."""


@triton.jit
def _kept(x, scale, KEPT: tl.constexpr):
    """x as the pool keeps it."""
    if KEPT.primitive_bitwidth == 8:
        wide = tl.div_rn(x.to(tl.float32), scale)
        return tl.minimum(tl.maximum(wide, -LARGEST), LARGEST).to(KEPT)
    return x.to(KEPT)


@triton.jit
def _normal_half(low, high, weight, half, eps, D: tl.constexpr, DTYPE: tl.constexpr):
    """Per-head RMS norm of rows given as two halves [R, D / 2] float32."""
    scale = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / D + eps)[:, None]
    first = tl.load(weight + half).to(tl.float32)[None, :]
    second = tl.load(weight + D // 2 + half).to(tl.float32)[None, :]
    low = ((low * scale).to(DTYPE).to(tl.float32) * first).to(DTYPE).to(tl.float32)
    high = ((high * scale).to(DTYPE).to(tl.float32) * second).to(DTYPE).to(tl.float32)
    return low, high


@triton.jit
def _rotated(
    source, inside, weight, half, cos, sin, eps, D: tl.constexpr, NORM: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """Load rows at source [R, D / 2] (first halves), normalise if asked, rotate → two halves float32."""
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + D // 2, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        low, high = _normal_half(low, high, weight, half, eps, D, DTYPE)
    return low * cos - high * sin, high * cos + low * sin


@triton.jit
def _store_kv(
    row, pool, k_weight, head, half, cos, sin, eps, k_scale, v_scale, head_stride, value_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Keys and values of some heads; pool points to this token's slot for head 0."""
    inside = (head < KV_HEADS)[:, None]
    source = row + HEADS * D + head[:, None] * D + half[None, :]
    dtype: tl.constexpr = row.dtype.element_ty
    kept: tl.constexpr = pool.dtype.element_ty
    low, high = _rotated(source, inside, k_weight, half, cos, sin, eps, D, NORM, dtype)
    source += KV_HEADS * D
    v_low = tl.load(source, mask=inside, other=0.0)
    v_high = tl.load(source + D // 2, mask=inside, other=0.0)
    place = pool + head.to(tl.int64)[:, None] * head_stride + half[None, :]
    tl.store(place, _kept(low.to(dtype), k_scale, kept), mask=inside)
    tl.store(place + D // 2, _kept(high.to(dtype), k_scale, kept), mask=inside)
    tl.store(place + value_stride, _kept(v_low, v_scale, kept), mask=inside)
    tl.store(place + value_stride + D // 2, _kept(v_high, v_scale, kept), mask=inside)


@triton.jit
def _store_q(
    row, q_out, q_weight, head, half, cos, sin, eps,
    HEADS: tl.constexpr, D: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Queries of some heads; q_out points to this token's head 0."""
    inside = (head < HEADS)[:, None]
    at = head[:, None] * D + half[None, :]
    dtype: tl.constexpr = row.dtype.element_ty
    low, high = _rotated(row + at, inside, q_weight, half, cos, sin, eps, D, NORM, dtype)
    tl.store(q_out + at, low.to(dtype), mask=inside)
    tl.store(q_out + at + D // 2, high.to(dtype), mask=inside)


@triton.jit(do_not_specialize=["layer"], do_not_specialize_on_alignment=["token_rows", "positions"])
def rotate_store_heads(
    qkv, q_out, pool, cos_sin, q_weight, k_weight, table, token_rows, positions, layer, eps,
    k_scale, v_scale, table_stride, page_stride, head_stride, layer_stride, value_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, NORM: tl.constexpr,
    GROUP: tl.constexpr, KV_GROUP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program per token and GROUP query heads, and one per token and KV_GROUP KV heads."""
    q_programs: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    half = tl.arange(0, D // 2)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    position = tl.load(positions + token)
    cos = tl.load(cos_sin + position.to(tl.int64) * D + half)[None, :]
    sin = tl.load(cos_sin + position.to(tl.int64) * D + D // 2 + half)[None, :]
    row = qkv + token * ((HEADS + 2 * KV_HEADS) * D)
    if part < q_programs:
        q_head = part * GROUP + tl.arange(0, GROUP)
        place = q_out + token * (HEADS * D)
        _store_q(row, place, q_weight, q_head, half, cos, sin, eps, HEADS, D, NORM)
    else:
        kv_head = (part - q_programs) * KV_GROUP + tl.arange(0, KV_GROUP)
        page = tl.load(table + tl.load(token_rows + token).to(tl.int64) * table_stride + position // PAGE)
        slot = pool + page.to(tl.int64) * page_stride + layer.to(tl.int64) * layer_stride
        _store_kv(
            row, slot + (position % PAGE) * D, k_weight, kv_head, half, cos, sin, eps, k_scale, v_scale,
            head_stride, value_stride, HEADS, KV_HEADS, D, NORM,
        )  # fmt: skip
