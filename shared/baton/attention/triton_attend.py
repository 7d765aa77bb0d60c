# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The Triton kernels of paged attention: tiles of queries against a sequence's pages, and the join of parts.

Launched by `attention.triton` alone. A tile is BLOCK_M rows of one span and KV head, where a row is one
query head of one token: the heads that share a KV head are rows beside each other, so short spans still fill
a tile. A sequence may be cut into parts that are attended by different programs and joined afterwards.
Under programmatic dependent launch (PDL) both wait for the kernel ahead before they touch memory.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LOG2E = tl.constexpr(1.4426950408889634)
SPANS = tl.constexpr(64)


@triton.jit
def _find_span(starts, spans, tile, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """The span that holds the tile, and the tile's place in it; `spans` when there is no such tile."""
    span = 0
    before = 0
    seen = 0
    lane = tl.arange(0, SPANS)
    for first in range(0, spans, SPANS):
        inside = first + lane < spans
        start = tl.load(starts + first + lane, mask=inside, other=0)
        end = tl.load(starts + first + lane + 1, mask=inside, other=0)
        tiles = ((end - start) * GROUP + BLOCK_M - 1) // BLOCK_M
        past = inside & (seen + tl.cumsum(tiles, 0) <= tile)
        span += tl.sum(past.to(tl.int32), 0)
        before += tl.sum(tl.where(past, tiles, 0), 0)
        seen += tl.sum(tiles, 0)
    return span, tile - before


@triton.jit
def _attend(
    q, pool, table, begin, end, position, page_stride, scale,
    WINDOW: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    VALUES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows q [BLOCK_M, D] at `position` over tokens [begin, end) → sums [BLOCK_M, D], their weight, the top
    logit in base 2."""
    lane = tl.arange(0, BLOCK_N)
    column = tl.arange(0, D)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    weight = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, D], tl.float32)
    for start in range(begin, end, BLOCK_N):
        token = start + lane
        inside = token < end
        page = tl.load(table + token // PAGE, mask=inside, other=0).to(tl.int64)
        place = pool + page * page_stride + (token % PAGE) * D
        k = tl.load(place[None, :] + column[:, None], mask=inside[None, :], other=0.0).to(q.dtype)
        logits = tl.dot(q, k, input_precision=PRECISION) * (scale * LOG2E)
        seen = inside[None, :] & (token[None, :] <= position[:, None])
        if WINDOW > 0:
            seen = seen & (token[None, :] > position[:, None] - WINDOW)
        logits = tl.where(seen, logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        reach = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen nothing yet
        shares = tl.exp2(logits - reach[:, None])
        shrink = tl.exp2(top - reach)
        weight = weight * shrink + tl.sum(shares, 1)
        v = tl.load(place[:, None] + VALUES + column[None, :], mask=inside[:, None], other=0.0).to(q.dtype)
        sums = tl.dot(shares.to(q.dtype), v, sums * shrink[:, None], input_precision=PRECISION)
        top = higher
    return sums, weight, top


@triton.jit(
    do_not_specialize=["layer", "first_span", "spans", "parts"],
    do_not_specialize_on_alignment=["rows", "starts", "lengths"],
)
def attend_tiles(
    q, pool, table, rows, starts, lengths, out, part_sums, part_tops, layer, first_span, spans, parts, scale,
    value_scale, table_stride, page_stride, head_stride, layer_stride,
    GROUP: tl.constexpr, WINDOW: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, VALUES: tl.constexpr, DECODE: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program per tile, KV head and part of the sequence."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    head = tl.program_id(1)
    heads = tl.num_programs(1) * GROUP
    if DECODE:
        span, tile = tl.program_id(0) + first_span, 0
    else:
        span, tile = _find_span(starts, spans, tl.program_id(0), GROUP, BLOCK_M)
    if span < first_span + spans:
        first = tl.load(starts + span)
        new = tl.load(starts + span + 1) - first
        length = tl.load(lengths + span)
        row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        token = row // GROUP
        position = length - new + token
        place = (first + token).to(tl.int64) * heads + head * GROUP + row % GROUP
        column = tl.arange(0, D)
        real = token < new
        queries = tl.load(q + place[:, None] * D + column[None, :], mask=real[:, None], other=0.0)
        end = tl.minimum(length, length - new + (tile * BLOCK_M + BLOCK_M - 1) // GROUP + 1)
        begin = 0
        if WINDOW > 0:
            oldest = length - new + tile * BLOCK_M // GROUP - WINDOW + 1
            begin = tl.maximum(oldest, 0) // BLOCK_N * BLOCK_N
        if SPLIT:
            share = tl.cdiv(tl.cdiv(end - begin, BLOCK_N), parts) * BLOCK_N
            begin += tl.program_id(2) * share
            end = tl.minimum(end, begin + share)
        base = pool + head.to(tl.int64) * head_stride + layer.to(tl.int64) * layer_stride
        pages = table + tl.load(rows + span).to(tl.int64) * table_stride
        sums, weight, top = _attend(
            queries, base, pages, begin, end, position, page_stride, scale,
            WINDOW, D, PAGE, BLOCK_M, BLOCK_N, VALUES, PRECISION,
        )  # fmt: skip
        sums = sums * (value_scale / tl.where(weight > 0, weight, 1.0))[:, None]
        if SPLIT:
            part = place * parts + tl.program_id(2)
            tl.store(part_tops + part, top + tl.log2(weight), mask=real)
            tl.store(part_sums + part[:, None] * D + column[None, :], sums, mask=real[:, None])
        else:
            at = out + place[:, None] * D + column[None, :]
            tl.store(at, sums.to(out.dtype.element_ty), mask=real[:, None])


@triton.jit(do_not_specialize=["first_row", "parts"])
def join_parts(part_sums, part_tops, out, first_row, parts, D: tl.constexpr, PDL: tl.constexpr):
    """One program per token and head: its parts' averages, weighted by their shares of the softmax."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = first_row + tl.program_id(0).to(tl.int64)
    column = tl.arange(0, D)
    top = float("-inf")
    weight = 0.0
    sums = tl.zeros([D], tl.float32)
    for part in range(0, parts):
        this = tl.load(part_tops + row * parts + part)
        if this > float("-inf"):
            higher = tl.maximum(top, this)
            shrink = tl.exp2(top - higher)
            share = tl.exp2(this - higher)
            sums = sums * shrink + share * tl.load(part_sums + (row * parts + part) * D + column)
            weight = weight * shrink + share
            top = higher
    tl.store(out + row * D + column, (sums / weight).to(out.dtype.element_ty))
