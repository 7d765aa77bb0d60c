# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Triton kernels of the mixture of experts: sort by expert, two grouped matrix products, weighted sum.

Launched by `kernels.triton` alone. A pair is one (token, choice of an expert): pair p belongs to token
p // choices. `route` sorts the pairs by expert on the device, so the host never learns how many each expert
got: the products are launched for the most tiles there can be, and programs beyond the real number return.
Results do not depend on the order in which pairs of one expert are sorted.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from baton.kernels.triton_rows import silu


@triton.jit
def _map_tiles(counts, starts, bins, tiles, limit, BLOCK_M: tl.constexpr):
    """tiles [3, limit]: expert, first row and end row of every tile of BLOCK_M sorted pairs."""
    needed = (counts + BLOCK_M - 1) // BLOCK_M
    first = tl.cumsum(needed, 0) - needed
    for i in range(0, tl.max(needed, 0)):
        live = i < needed
        tl.store(tiles + first + i, bins, mask=live)
        tl.store(tiles + limit + first + i, starts + i * BLOCK_M, mask=live)
        tl.store(tiles + 2 * limit + first + i, starts + counts, mask=live)
    return tl.sum(needed, 0)


@triton.jit(do_not_specialize=["pairs", "limit"])
def route(
    chosen, order, cursors, tiles, total, pairs, limit,
    BINS: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program. order [pairs]: the pairs sorted by expert; cursors [BINS] is scratch."""
    bins = tl.arange(0, BINS)
    lane = tl.arange(0, CHUNK)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    counts = tl.zeros([BINS], tl.int32)
    for start in range(0, pairs, CHUNK):
        inside = start + lane < pairs
        expert = tl.load(chosen + start + lane, mask=inside, other=0).to(tl.int32)
        counts += tl.histogram(expert, BINS, mask=inside)
    starts = tl.cumsum(counts, 0) - counts
    tl.store(cursors + bins, starts)
    tl.store(total, _map_tiles(counts, starts, bins, tiles, limit, BLOCK_M))
    tl.debug_barrier()
    for start in range(0, pairs, CHUNK):
        inside = start + lane < pairs
        expert = tl.load(chosen + start + lane, mask=inside, other=0).to(tl.int32)
        place = tl.atomic_add(cursors + expert, 1, mask=inside)
        tl.store(order + place, start + lane, mask=inside)


@triton.jit
def _product(
    a, b, DEPTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """[BLOCK_M, DEPTH] @ [DEPTH, BLOCK_N] in float32; a and b point to the first BLOCK_K of DEPTH."""
    k = tl.arange(0, BLOCK_K)
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, DEPTH, BLOCK_K):
        if DEPTH % BLOCK_K == 0:
            left = tl.load(a + start)
            right = tl.load(b + start)
        else:
            left = tl.load(a + start, mask=(start + k < DEPTH)[None, :], other=0.0)
            right = tl.load(b + start, mask=(start + k < DEPTH)[:, None], other=0.0)
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
    return sums


@triton.jit
def _tile(tiles, limit, columns: tl.constexpr):
    """This program's expert, first row, end row and block of columns."""
    tile = tl.program_id(0) // columns
    expert = tl.load(tiles + tile).to(tl.int64)
    first = tl.load(tiles + limit + tile)
    return expert, first, tl.load(tiles + 2 * limit + tile), tl.program_id(0) % columns


@triton.jit(do_not_specialize=["limit"])
def expert_gate_up(
    x, weights, out, order, tiles, total, limit,
    CHOICES: tl.constexpr, H: tl.constexpr, INNER: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out [pairs, INNER], in sorted order: silu(x @ gate.T) * (x @ up.T)."""
    columns: tl.constexpr = (INNER + BLOCK_N - 1) // BLOCK_N
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    if tl.program_id(0) // columns < tl.load(total):
        expert, first, end, block = _tile(tiles, limit, columns)
        row = first + tl.arange(0, BLOCK_M)
        column = block * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        token = tl.load(order + row, mask=row < end, other=0) // CHOICES
        # Rows and columns beyond the end read what exists and are dropped by the store: no masks in the loop.
        a = x + token.to(tl.int64)[:, None] * H + k[None, :]
        both = tl.arange(0, 2 * BLOCK_N)  # gate's columns, then up's: one wide product
        wide = tl.minimum(block * BLOCK_N + both % BLOCK_N, INNER - 1) + both // BLOCK_N * INNER
        b = weights + expert * (2 * INNER * H) + wide.to(tl.int64)[None, :] * H + k[:, None]
        sums = _product(a, b, H, BLOCK_M, 2 * BLOCK_N, BLOCK_K, PRECISION)
        gate, up = tl.split(tl.permute(tl.reshape(sums, (BLOCK_M, 2, BLOCK_N)), (0, 2, 1)))
        dtype: tl.constexpr = out.dtype.element_ty
        active = silu(gate.to(dtype).to(tl.float32)).to(dtype).to(tl.float32) * up.to(dtype).to(tl.float32)
        at = row.to(tl.int64)[:, None] * INNER + column[None, :]
        tl.store(out + at, active.to(dtype), mask=(row < end)[:, None] & (column < INNER)[None, :])


@triton.jit(do_not_specialize=["limit"])
def expert_down(
    x, weights, out, order, tiles, total, limit,
    H: tl.constexpr, INNER: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """x [pairs, INNER] in sorted order → out [pairs, H] in the pairs' own order."""
    columns: tl.constexpr = (H + BLOCK_N - 1) // BLOCK_N
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    if tl.program_id(0) // columns < tl.load(total):
        expert, first, end, block = _tile(tiles, limit, columns)
        row = first + tl.arange(0, BLOCK_M)
        column = block * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        a = x + tl.minimum(row, end - 1).to(tl.int64)[:, None] * INNER + k[None, :]
        b = weights + expert * (H * INNER) + tl.minimum(column, H - 1)[None, :] * INNER + k[:, None]
        sums = _product(a, b, INNER, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION)
        pair = tl.load(order + row, mask=row < end, other=0).to(tl.int64)
        at = pair[:, None] * H + column[None, :]
        tl.store(out + at, sums.to(out.dtype.element_ty), mask=(row < end)[:, None] & (column < H)[None, :])


@triton.jit
def expert_sum(
    x, weights, out, CHOICES: tl.constexpr, H: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """out [N, H]: the weighted sum of each token's pairs x [N * CHOICES, H], in the choices' order."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < H
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    sums = tl.zeros([BLOCK], tl.float32)
    for choice in range(0, CHOICES):
        pair = token * CHOICES + choice
        value = tl.load(x + pair * H + column, mask=inside, other=0.0).to(tl.float32)
        sums += value * tl.load(weights + pair).to(tl.float32)
    tl.store(out + token * H + column, sums.to(out.dtype.element_ty), mask=inside)
