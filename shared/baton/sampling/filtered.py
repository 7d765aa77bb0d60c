# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Choosing one token per row among those that min_p, top_k and top_p leave, on CUDA, without sorting the row.

`choose` is called by the sampler, and in the graphs of decode steps, for rows that have such a filter. What
stays are the first so many of a row's tokens in the order of their logits, equal ones by their ids. Three
reads of the logits, each split over many programs, find few enough tokens that surely hold all of those: the
maximum; how many tokens and how much probability lie within certain distances of it; those within the nearest
that suffices. One program a row then sorts these and draws. A row in which they are too many is searched for
its threshold bit by bit instead, by one program that reads it some ten times.

What a row draws depends on that row alone: every sum is taken in the same order whatever shares the batch.
Nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from baton.sampling.fused import UNTOLD, _gumbel, _keys

POINTERS = [
    "lines", "owners", "numbers", "seeds", "positions", "tops", "counts", "masses", "taken", "founds",
    "wholes", "values", "tokens", "chosen",
]  # fmt: skip
"""One kernel for however they are aligned: some are parts of others."""
MARKS = tl.constexpr(8)
"""Distances from the maximum at which is counted; the last is beyond everything."""


@triton.jit
def _distance(mark):
    """In units of the temperature: 1, 2, 3, 4.5, 7, 12, 20, all. Where most of them end, one more may bring
    ten times the tokens."""
    near = tl.where(mark < 3, mark + 1.0, 4.5)
    far = tl.where(mark == 4, 7.0, tl.where(mark == 5, 12.0, tl.where(mark == 6, 20.0, float("inf"))))
    return tl.where(mark < 4, near, far)


@triton.jit
def _filters(numbers, rows, row):
    """Scale, top_k, top_p and the logarithm of min_p."""
    scale = tl.div_rn(1.0, tl.load(numbers + row))
    top_k = tl.load(numbers + rows + row)
    top_p = tl.load(numbers + 2 * rows + row)
    min_p = tl.load(numbers + 3 * rows + row)
    return scale, top_k, top_p, tl.where(min_p > 0, tl.log(min_p), float("-inf"))


@triton.jit
def _idle(line, owners, numbers, rows):
    """Whether nothing is to be done: for no line, or one whose row has no filter."""
    idle = line < 0
    if not idle:
        row = numbers + tl.load(owners + line)
        cold = tl.load(row) <= 0
        top_k, top_p, min_p = tl.load(row + rows), tl.load(row + 2 * rows), tl.load(row + 3 * rows)
        idle = cold | ((top_k <= 0) & (top_p >= 1) & (min_p <= 0))
    return idle


@triton.jit
def _goal(top_p, whole):
    """The weight that is enough."""
    return tl.where(top_p < 1, top_p * whole, float("inf"))


@triton.jit
def _load(row, entry, vocab):
    return tl.load(row + entry, mask=entry < vocab, other=float("-inf")).to(tl.float32)


@triton.jit
def _near(x, top, scale, floor):
    """How far below the maximum, in units of the temperature, and whether min_p leaves it."""
    below = (x - top) * scale
    return below, (x > float("-inf")) & (below >= floor)


@triton.jit(do_not_specialize=["rows", "parts"], do_not_specialize_on_alignment=POINTERS)
def _maximum(
    logits, lines, owners, numbers, rows, tops, taken, vocab, stride, parts,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of one part. Besides, that nothing is gathered yet."""
    k, part = tl.program_id(0), tl.program_id(1)
    line = tl.load(lines + k)
    if _idle(line, owners, numbers, rows):
        return
    if part == 0:
        tl.store(taken + k, 0)
    row = logits + line.to(tl.int64) * stride
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for at in range(0, CHUNK, BLOCK):
        best = tl.maximum(best, _load(row, part * CHUNK + at + lane, vocab))
    tl.store(tops + k * parts + part, tl.max(best, 0))


@triton.jit
def _top(tops, k, parts, PARTS: tl.constexpr):
    part = tl.arange(0, PARTS)
    return tl.max(tl.load(tops + k * parts + part, mask=part < parts, other=float("-inf")), 0)


@triton.jit(do_not_specialize=["rows", "parts"], do_not_specialize_on_alignment=POINTERS)
def _weigh(
    logits, lines, owners, numbers, rows, tops, counts, masses, vocab, stride, parts,
    PARTS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of one part: how many tokens lie within each distance, and their weights, relative to the maximum's."""
    k, part = tl.program_id(0), tl.program_id(1)
    line = tl.load(lines + k)
    if _idle(line, owners, numbers, rows):
        return
    row = logits + line.to(tl.int64) * stride
    scale, _, _, floor = _filters(numbers, rows, tl.load(owners + line))
    top = _top(tops, k, parts, PARTS)
    lane = tl.arange(0, BLOCK)
    mark = tl.arange(0, MARKS)
    count = tl.zeros([MARKS, BLOCK], tl.int32)
    mass = tl.zeros([MARKS, BLOCK], tl.float32)
    begin, end = part * CHUNK, tl.minimum(vocab, (part + 1) * CHUNK)
    following = _load(row, begin + lane, end)
    for at in range(begin, begin + CHUNK, BLOCK):
        x, following = following, _load(row, at + BLOCK + lane, end)
        below, left = _near(x, top, scale, floor)
        weight = tl.where(left, tl.exp(below), 0.0)
        within = left[None, :] & (below[None, :] >= -_distance(mark)[:, None])
        count += within.to(tl.int32)
        mass += tl.where(within, weight[None, :], 0.0)
    place = (k * parts + part) * MARKS + mark
    tl.store(counts + place, tl.sum(count, 1))
    tl.store(masses + place, tl.sum(mass, 1))


@triton.jit
def _totals(values, k, parts, PARTS: tl.constexpr):
    """[MARKS]: of all parts."""
    part = tl.arange(0, PARTS)
    mark = tl.arange(0, MARKS)
    place = (k * parts + part[:, None]) * MARKS + mark[None, :]
    return tl.sum(tl.load(values + place, mask=(part < parts)[:, None], other=0), 0)


@triton.jit
def _enough(counts, masses, k, parts, top_k, top_p, PARTS: tl.constexpr):
    """The nearest mark within which all lies that is to stay, how many tokens do, and the row's weight."""
    mark = tl.arange(0, MARKS)
    count, mass = _totals(counts, k, parts, PARTS), _totals(masses, k, parts, PARTS)
    whole = tl.sum(tl.where(mark == MARKS - 1, mass, 0.0), 0)
    # Where top_k is, the weight that top_p refers to is that of what top_k leaves.
    suffices = tl.where(top_k > 0, count.to(tl.float32) >= top_k, mass >= _goal(top_p, whole))
    nearest = tl.min(tl.where(suffices, mark, MARKS - 1), 0)
    return nearest, tl.sum(tl.where(mark == nearest, count, 0), 0), whole


@triton.jit(do_not_specialize=["rows", "parts"], do_not_specialize_on_alignment=POINTERS)
def _gather(
    logits, lines, owners, numbers, rows, tops, counts, masses, taken, founds, wholes, values, tokens, vocab,
    stride, parts, FEW: tl.constexpr, PARTS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of one part: what lies within, in any order; of a row, as many as were counted."""
    k, part = tl.program_id(0), tl.program_id(1)
    line = tl.load(lines + k)
    if _idle(line, owners, numbers, rows):
        return
    scale, top_k, top_p, floor = _filters(numbers, rows, tl.load(owners + line))
    nearest, found, whole = _enough(counts, masses, k, parts, top_k, top_p, PARTS)
    if part == 0:  # decided once: the same sums in another kernel may differ in their last bits
        tl.store(founds + k, found)
        tl.store(wholes + k, whole)
    if found > FEW:
        return
    if tl.load(counts + (k * parts + part) * MARKS + nearest) == 0:
        return
    row = logits + line.to(tl.int64) * stride
    top = _top(tops, k, parts, PARTS)
    lane = tl.arange(0, BLOCK)
    one = tl.full([BLOCK], 1, tl.int32)
    for at in range(0, CHUNK, BLOCK):
        entry = part * CHUNK + at + lane
        x = _load(row, entry, vocab)
        below, left = _near(x, top, scale, floor)
        within = left & (below >= -_distance(nearest))
        place = tl.atomic_add(taken + k + tl.zeros_like(lane), one, mask=within, sem="relaxed")
        within = within & (place < FEW)
        tl.store(values + k * FEW + place, x, mask=within)
        tl.store(tokens + k * FEW + place, entry, mask=within)


@triton.jit
def _ordered(x):
    """An int32 for each float32, in the same order; one for both zeros."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit(do_not_specialize=["rows", "parts"], do_not_specialize_on_alignment=POINTERS)
def _draw_few(
    lines, owners, numbers, rows, seeds, positions, tops, founds, wholes, values, tokens, chosen, parts,
    FEW: tl.constexpr, FEWER: tl.constexpr, PARTS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0)
    line = tl.load(lines + k)
    if _idle(line, owners, numbers, rows):
        return
    owner = tl.load(owners + line)
    scale, top_k, top_p, _ = _filters(numbers, rows, owner)
    found, whole = tl.load(founds + k), tl.load(wholes + k)
    if found > FEW:
        tl.store(chosen + line, tl.full([], -1, tl.int64))  # for `_draw_many`
        return
    top = _top(tops, k, parts, PARTS)
    first, second = _keys(tl.load(seeds + owner), tl.load(positions + line))
    at = k * FEW
    if found <= FEWER:
        best = _among(
            values + at, tokens + at, found, top, scale, top_k, top_p, whole, first, second, FEWER, FAST
        )
    else:
        best = _among(
            values + at, tokens + at, found, top, scale, top_k, top_p, whole, first, second, FEW, FAST
        )
    tl.store(chosen + line, tl.where(best == UNTOLD, 0, best).to(tl.int64))


@triton.jit
def _among(
    values,
    tokens,
    found,
    top,
    scale,
    top_k,
    top_p,
    whole,
    first,
    second,
    SIZE: tl.constexpr,
    FAST: tl.constexpr,
):
    """Draw from so many, of which SIZE are the most."""
    lane = tl.arange(0, SIZE)
    x = tl.load(values + lane, mask=lane < found, other=float("-inf"))
    token = tl.load(tokens + lane, mask=lane < found, other=0)
    # The larger logit first, of equal ones the lower token; what is none comes last.
    packed = (_ordered(x).to(tl.int64) << 32) | (0x7FFFFFFF - token).to(tl.int64)
    packed = tl.sort(packed, descending=True)
    token = 0x7FFFFFFF - (packed & 0x7FFFFFFF).to(tl.int32)
    key = (packed >> 32).to(tl.int32)
    x = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    stays = (lane < found) & (lane.to(tl.float32) < tl.where(top_k > 0, top_k, float("inf")))
    weight = tl.where(stays, tl.exp((x - top) * scale), 0.0)
    whole = tl.where(top_k > 0, tl.sum(weight, 0), whole)
    before = tl.cumsum(weight, 0) - weight
    stays = stays & ((lane == 0) | (before < _goal(top_p, whole)))
    value = tl.where(stays, x * scale + _gumbel(token, first, second, FAST), float("-inf"))
    return tl.min(tl.where(stays & (value == tl.max(value, 0)), token, UNTOLD), 0)


@triton.jit
def _step_of(x, BITS: tl.constexpr):
    """Which of the values a logit can have, in order; the distance of two may need 33 bits."""
    return (_ordered(x) >> (32 - BITS)).to(tl.int64)


@triton.jit
def _value_of(step, BITS: tl.constexpr):
    key = step.to(tl.int32) << (32 - BITS)
    key = tl.where(step < 0, key | ((1 << (32 - BITS)) - 1), key)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _tally(row, vocab, top, scale, floor, a, b, c, BLOCK: tl.constexpr):
    """How many tokens are at least a, b, c, and what they weigh."""
    lane = tl.arange(0, BLOCK)
    count_a = tl.zeros([BLOCK], tl.int32)
    count_b = tl.zeros([BLOCK], tl.int32)
    count_c = tl.zeros([BLOCK], tl.int32)
    mass_a = tl.zeros([BLOCK], tl.float32)
    mass_b = tl.zeros([BLOCK], tl.float32)
    mass_c = tl.zeros([BLOCK], tl.float32)
    for at in range(0, vocab, BLOCK):
        x = _load(row, at + lane, vocab)
        below, left = _near(x, top, scale, floor)
        weight = tl.exp(below)
        in_a, in_b, in_c = left & (x >= a), left & (x >= b), left & (x >= c)
        count_a += in_a.to(tl.int32)
        count_b += in_b.to(tl.int32)
        count_c += in_c.to(tl.int32)
        mass_a += tl.where(in_a, weight, 0.0)
        mass_b += tl.where(in_b, weight, 0.0)
        mass_c += tl.where(in_c, weight, 0.0)
    return (
        tl.sum(count_a, 0), tl.sum(count_b, 0), tl.sum(count_c, 0),
        tl.sum(mass_a, 0), tl.sum(mass_b, 0), tl.sum(mass_c, 0),
    )  # fmt: skip


@triton.jit
def _search(
    row, vocab, top, scale, floor, low, high, goal,
    COUNT: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest step at and above which tokens number, or weigh, as much as `goal`: `low` or above it, and
    below `high`."""
    while high - low > 1:
        quarter = tl.maximum((high - low) // 4, 1)
        half = (high - low) // 2
        a, b, c = low + quarter, low + half, tl.maximum(high - quarter, low + half)
        n_a, n_b, n_c, m_a, m_b, m_c = _tally(
            row, vocab, top, scale, floor, _value_of(a, BITS), _value_of(b, BITS), _value_of(c, BITS), BLOCK
        )
        if COUNT:
            m_a, m_b, m_c = n_a.to(tl.float32), n_b.to(tl.float32), n_c.to(tl.float32)
        high = tl.where(m_a < goal, a, tl.where(m_b < goal, b, tl.where(m_c < goal, c, high)))
        low = tl.where(m_c >= goal, c, tl.where(m_b >= goal, b, tl.where(m_a >= goal, a, low)))
    return low


@triton.jit
def _pick(
    row, vocab, top, scale, floor, cut, equal, first, second, BLOCK: tl.constexpr, FAST: tl.constexpr
):  # fmt: skip
    """Draw among what is above `cut`, and the first `equal` that are not below."""
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    token = lane
    met = 0
    for at in range(0, vocab, BLOCK):
        entry = at + lane
        x = _load(row, entry, vocab)
        _, left = _near(x, top, scale, floor)
        same = (left & (x == cut)).to(tl.int32)
        place = met + tl.cumsum(same, 0)
        met += tl.sum(same, 0)
        stays = left & ((x > cut) | ((x == cut) & (place <= equal)))
        value = tl.where(stays, x * scale + _gumbel(entry, first, second, FAST), float("-inf"))
        better = value > best
        best = tl.where(better, value, best)
        token = tl.where(better, entry, token)
    return tl.min(tl.where(best == tl.max(best, 0), token, UNTOLD), 0)


@triton.jit(do_not_specialize=["rows", "parts"], do_not_specialize_on_alignment=POINTERS)
def _draw_many(
    logits, lines, owners, numbers, rows, seeds, positions, tops, counts, masses, chosen, vocab, stride,
    parts, BITS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0)
    line = tl.load(lines + k)
    if _idle(line, owners, numbers, rows):
        return
    if tl.load(chosen + line) >= 0:
        return
    owner = tl.load(owners + line)
    scale, top_k, top_p, floor = _filters(numbers, rows, owner)
    nearest, found, whole = _enough(counts, masses, k, parts, top_k, top_p, PARTS)
    row = logits + line.to(tl.int64) * stride
    top = _top(tops, k, parts, PARTS)
    nothing = tl.full([], float("-inf"), tl.float32)
    low, highest = _step_of(nothing, BITS), _step_of(top, BITS) + 1
    high = highest
    # Between the mark that suffices and the one before, and a little farther for whatever was rounded.
    if nearest < MARKS - 1:
        low = tl.maximum(low, _step_of(top - tl.div_rn(_distance(nearest) * 1.001, scale), BITS) - 1)
    if nearest > 0:
        high = tl.minimum(high, _step_of(top - tl.div_rn(_distance(nearest - 1) * 0.999, scale), BITS) + 2)
    # `cut` is the least logit that stays, and `equal` how many of those that have it do.
    cut, equal = nothing, vocab
    if (top_k > 0) & (found.to(tl.float32) >= top_k):
        step = _search(row, vocab, top, scale, floor, low, high, top_k, True, BITS, BLOCK)
        cut = _value_of(step, BITS)
        above = _value_of(step + 1, BITS)
        _, _, more, _, _, mass = _tally(row, vocab, top, scale, floor, cut, cut, above, BLOCK)
        equal = top_k.to(tl.int32) - more
        whole = mass + equal.to(tl.float32) * tl.exp((cut - top) * scale)
        low, high = step, highest
    elif top_k > 0:  # of more tokens than there are
        high = highest
    if top_p < 1:
        goal = _goal(top_p, whole)
        step = _search(row, vocab, top, scale, floor, low, high, goal, False, BITS, BLOCK)
        least = _value_of(step, BITS)
        above = _value_of(step + 1, BITS)
        same, _, more, _, _, mass = _tally(row, vocab, top, scale, floor, least, least, above, BLOCK)
        missing = tl.ceil(tl.div_rn(goal - mass, tl.exp((least - top) * scale)))
        stays = tl.minimum(tl.maximum(missing, 1.0), (same - more).to(tl.float32)).to(tl.int32)
        equal = tl.where(least == cut, tl.minimum(equal, stays), stays)
        cut = least
    first, second = _keys(tl.load(seeds + owner), tl.load(positions + line))
    chose = _pick(row, vocab, top, scale, floor, cut, equal, first, second, BLOCK, FAST)
    tl.store(chosen + line, tl.minimum(chose, vocab - 1).to(tl.int64))


@dataclass(frozen=True, slots=True)
class Sizes:
    few: int = 1024
    """Tokens that are sorted in one program."""
    fewer: int = 128
    """The same, faster; mostly it is no more."""
    chunk: int = 8192
    """Of a row, for one program."""
    block: int = 512
    """Vocabulary entries per pass of a program that weighs."""
    step: int = 2048
    """The same of one that only looks."""
    wide: int = 8192
    """The same of one that reads a whole row."""


SERVED = Sizes()


def choose(
    logits: Tensor,
    lines: Tensor,
    owners: Tensor,
    numbers: Tensor,
    seeds: Tensor,
    positions: Tensor,
    out: Tensor,
    sizes: Sizes = SERVED,
) -> None:
    """A token for each of `lines` [K] int32, into `out` [M] int64; below 0 is none, and who has a temperature
    of 0 or no filter keeps what is there.

    logits [M, V] bf16, fp16 or fp32, rows contiguous; owners [M] int32, the row of `numbers` [7, R] and
    `seeds` [R] that a line belongs to; positions [M] int32.
    """
    vocab = logits.shape[1]
    parts = triton.cdiv(vocab, sizes.chunk)
    grid, rows = (len(lines), parts), numbers.shape[1]
    whole = torch.empty((3, len(lines), parts, MARKS.value), dtype=torch.float32, device=logits.device)
    tops, masses, counts = whole[0], whole[1], whole[2].view(torch.int32)
    taken, founds = torch.empty((2, len(lines)), dtype=torch.int32, device=logits.device)
    wholes = torch.empty(len(lines), dtype=torch.float32, device=logits.device)
    values = torch.empty((len(lines), sizes.few), dtype=torch.float32, device=logits.device)
    tokens = torch.empty((len(lines), sizes.few), dtype=torch.int32, device=logits.device)
    size = {"PARTS": triton.next_power_of_2(parts)}
    walk = {"CHUNK": sizes.chunk, "num_warps": 4}
    sums = (tops, counts, masses)
    bits = {torch.bfloat16: 16, torch.float16: 19}.get(logits.dtype, 32)
    _maximum[grid](
        logits, lines, owners, numbers, rows, tops, taken, vocab, logits.stride(0), parts,
        BLOCK=sizes.step, **walk,
    )  # fmt: skip
    _weigh[grid](
        logits, lines, owners, numbers, rows, *sums, vocab, logits.stride(0), parts,
        BLOCK=sizes.block, **size, **walk,
    )  # fmt: skip
    _gather[grid](
        logits, lines, owners, numbers, rows, *sums, taken, founds, wholes, values, tokens, vocab,
        logits.stride(0), parts, FEW=sizes.few, BLOCK=sizes.step, **size, **walk,
    )  # fmt: skip
    _draw_few[grid[:1]](
        lines, owners, numbers, rows, seeds, positions, tops, founds, wholes, values, tokens, out, parts,
        FEW=sizes.few, FEWER=sizes.fewer, FAST=logits.is_cuda, num_warps=8, **size,
    )  # fmt: skip
    _draw_many[grid[:1]](
        logits, lines, owners, numbers, rows, seeds, positions, *sums, out, vocab, logits.stride(0), parts,
        BITS=bits, BLOCK=sizes.wide, FAST=logits.is_cuda, num_warps=16, **size,
    )  # fmt: skip
