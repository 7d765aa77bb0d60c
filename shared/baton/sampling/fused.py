# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""Choosing one token per row in one read of the logits, on CUDA.

`sample` is called by the sampler once a step, after whatever filters and penalties apply. It computes
`argmax(logits / temperature + gumbel)` with the noise of `noise`, without materialising the noise, the
probabilities or the scaled logits. A row at temperature 0 is a plain argmax. Ties go to the lowest token.
It never waits for the device and allocates nothing that a captured graph could not.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from baton.kernels.early import starts_early

BLOCK = 1024
"""Vocabulary entries per pass of a program."""
PROGRAMS = 132 * 16
"""Programs that keep an H200 busy; a small batch splits its rows until there are as many."""
MAX_PARTS = 128

UNTOLD = tl.constexpr(2147483647)
"""No token: larger than any."""


@triton.jit
def _avalanche(h):
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)


@triton.jit
def _keys(seed, position):
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32)
    place = position.to(tl.uint32)
    first = _avalanche(low ^ _avalanche(high + 0x3C6EF372))
    second = _avalanche(high ^ _avalanche(low + 0xDAA66D2B))
    before = _avalanche(first ^ _avalanche(place + 0x78DDE6E4))
    between = _avalanche(second ^ _avalanche(place + 0x1715609D))
    return before, between


@triton.jit
def _log(x, FAST: tl.constexpr):
    if FAST:
        return 0.6931471805599453 * tl.inline_asm_elementwise(
            "lg2.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log(x)


@triton.jit
def _gumbel(entry, before, between, FAST: tl.constexpr):
    h = entry.to(tl.uint32) * 0x9E3779B1 + before
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15) ^ between) * 0x846CA68B
    h = h ^ (h >> 16)
    v = tl.minimum((h.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994039535522)
    series = v * (1.0 + v * (0.5 + v * (0.3333333432674408 + v * 0.25)))
    exponential = tl.where(v < 0.0078125, series, -_log(1.0 - v, FAST))
    return -_log(exponential, FAST)


@triton.jit
def _scan(
    row, first, last, vocab, scale, before, between,
    NOISE: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The best value and its lowest token in blocks [first, last) of one row."""
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    token = first * BLOCK + lane
    for block in range(first, last):
        entry = block * BLOCK + lane
        value = tl.load(row + entry, mask=entry < vocab, other=float("-inf")).to(tl.float32)
        if NOISE:
            value = value * scale + _gumbel(entry, before, between, FAST)
        better = value > best
        best = tl.where(better, value, best)
        token = tl.where(better, entry, token)
    top = tl.max(best, 0)
    return top, tl.min(tl.where(best == top, token, UNTOLD), 0)


@triton.jit(
    do_not_specialize=["blocks", "parts"],
    do_not_specialize_on_alignment=["temperatures", "seeds", "positions", "chosen"],
)
def _sample_part(
    logits, temperatures, seeds, positions, values, tokens, chosen, vocab, stride, blocks, parts,
    WHOLE: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    split = tl.program_id(1)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = logits + m.to(tl.int64) * stride
    first = split * blocks
    last = tl.minimum(first + blocks, tl.cdiv(vocab, BLOCK))
    temperature = tl.load(temperatures + m)
    if temperature > 0:
        before, between = _keys(tl.load(seeds + m), tl.load(positions + m))
        scale = tl.div_rn(1.0, temperature)
        top, token = _scan(row, first, last, vocab, scale, before, between, True, BLOCK, FAST)
    else:
        top, token = _scan(row, first, last, vocab, 1.0, 0, 0, False, BLOCK, FAST)
    if WHOLE:
        tl.store(chosen + m, token.to(tl.int64))
    else:
        tl.store(values + m * parts + split, top)
        tl.store(tokens + m * parts + split, token)


@triton.jit(do_not_specialize=["parts"])
def _sample_join(values, tokens, chosen, parts, WIDTH: tl.constexpr, PDL: tl.constexpr):
    m = tl.program_id(0)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    part = tl.arange(0, WIDTH)
    value = tl.load(values + m * parts + part, mask=part < parts, other=float("-inf"))
    token = tl.load(tokens + m * parts + part, mask=part < parts, other=UNTOLD)
    top = tl.max(value, 0)
    tl.store(chosen + m, tl.min(tl.where(value == top, token, UNTOLD), 0).to(tl.int64))


def sample(
    logits: Tensor,
    temperatures: Tensor,
    seeds: Tensor,
    positions: Tensor,
    out: Tensor | None = None,
    pdl: bool | None = None,
) -> Tensor:
    """One token for each row → [M] int64, in `out` when given.

    logits [M, V] bf16, fp16 or fp32, rows contiguous; temperatures [M] float32; seeds [M] int64; positions
    [M] int32. An entry of -inf is never chosen unless the whole row is. `pdl` starts the kernels before
    the one ahead has ended, None where the device can.
    """
    pdl = starts_early(logits.device) if pdl is None else pdl
    rows, vocab = logits.shape
    if out is None:
        out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows == 0:
        return out
    parts = max(1, min(PROGRAMS // rows, triton.cdiv(vocab, 2 * BLOCK), MAX_PARTS))
    blocks = triton.cdiv(triton.cdiv(vocab, parts), BLOCK)
    parts = triton.cdiv(vocab, blocks * BLOCK)
    values = torch.empty((rows, parts), dtype=torch.float32, device=logits.device)
    tokens = torch.empty((rows, parts), dtype=torch.int32, device=logits.device)
    launch = {"launch_pdl": True} if pdl else {}
    _sample_part[(rows, parts)](
        logits, temperatures, seeds, positions, values, tokens, out, vocab, logits.stride(0), blocks, parts,
        WHOLE=parts == 1, BLOCK=BLOCK, FAST=logits.is_cuda, PDL=pdl, num_warps=8, **launch,
    )  # fmt: skip
    if parts > 1:
        _sample_join[(rows,)](values, tokens, out, parts, WIDTH=MAX_PARTS, PDL=pdl, num_warps=1, **launch)
    return out
