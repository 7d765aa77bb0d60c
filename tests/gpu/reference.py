"""What the fused kernels and attention backends must equal, written as plainly as torch allows.

Independent of the package's own torch backends, so that one mistake cannot hide in both. Float32 or wider
throughout; only where transformers rounds to the model's dtype between two operations is that repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baton.attention.base import UNSCALED, HostShape, Scales, Spans

EIGHT = torch.float8_e4m3fn


def error(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖; infinite where anything was not written or not finite."""
    difference = (got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide.to(x.dtype).float() * weight.float()).to(x.dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return ((gate * torch.sigmoid(gate)).to(gate_up.dtype).float() * up).to(gate_up.dtype)


def rotate(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """x [N, heads, D]."""
    cos, sin = cos_sin[positions.long()][:, None].chunk(2, dim=-1)
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def rotate_store(
    qkv: Tensor,
    pool: Tensor,
    layer: int,
    spans: Spans,
    cos_sin: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    scales: Scales = UNSCALED,
) -> Tensor:
    kv_heads, page_size, dim = pool.shape[1], pool.shape[4], pool.shape[5]
    q, k, v = (
        part.reshape(len(qkv), -1, dim)
        for part in qkv.split([qkv.shape[1] - 2 * kv_heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    )
    if norms is not None:
        q, k = norm(q, norms[0], eps), norm(k, norms[1], eps)
    q, k = rotate(q, cos_sin, spans.positions), rotate(k, cos_sin, spans.positions)
    for i, (row, position) in enumerate(
        zip(spans.token_rows.tolist(), spans.positions.tolist(), strict=True)
    ):
        page = int(spans.table[row, position // page_size])
        pool[page, :, layer, 0, position % page_size] = kept(k[i], scales.k, pool.dtype)
        pool[page, :, layer, 1, position % page_size] = kept(v[i], scales.v, pool.dtype)
    return q


def kept(x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """As a pool of this dtype keeps it."""
    return (x.float() / scale).clamp(-448, 448).to(dtype) if dtype == EIGHT else x.to(dtype)


def narrowed(pool: Tensor, scales: list[Scales]) -> tuple[Tensor, Tensor]:
    """A random pool in eight bits, and what its numbers stand for in the dtype that it had; every layer is as
    large as before."""
    factors = torch.tensor([[one.k, one.v] for one in scales], device=pool.device)[:, :, None, None]
    small = (pool.float() / factors).clamp(-448, 448).to(EIGHT)
    return small, (small.float() * factors).to(pool.dtype)


def experts(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(len(down)):
        token, choice = torch.nonzero(chosen == expert, as_tuple=True)
        hidden = silu_mul((x[token].float() @ gate_up[expert].float().T).to(x.dtype))
        result = (hidden.float() @ down[expert].float().T).to(x.dtype).float()
        out.index_add_(0, token, result * weights[token, choice].float()[:, None])
    return out.to(x.dtype)


def attention(
    q: Tensor, pool: Tensor, layer: int, spans: Spans, scale: float, window: int | None = None
) -> Tensor:
    """q [N, heads, D] → [N, heads * D] float32."""
    page_size, group = pool.shape[4], q.shape[1] // pool.shape[1]
    starts, lengths, rows = spans.starts.tolist(), spans.lengths.tolist(), spans.rows.tolist()
    outputs = []
    for i, (length, row) in enumerate(zip(lengths, rows, strict=True)):
        pages = spans.table[row, : -(-length // page_size)].long()
        k, v = (
            pool[pages, :, layer, which].transpose(1, 2).flatten(0, 1)[:length].float() for which in (0, 1)
        )
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        part = q[starts[i] : starts[i + 1]].float()
        here = torch.arange(length - len(part), length, device=q.device)[:, None]
        there = torch.arange(length, device=q.device)[None, :]
        hidden = there > here if window is None else (there > here) | (there <= here - window)
        logits = torch.einsum("nhd,lhd->hnl", part, k) * scale
        logits.masked_fill_(hidden, float("-inf"))
        outputs.append(torch.einsum("hnl,lhd->nhd", logits.softmax(-1), v).flatten(1))
    return torch.cat(outputs)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a random pool and batch look like."""

    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 128
    page_size: int = 16
    layers: int = 2
    dtype: torch.dtype = torch.bfloat16


def batch(
    spans: list[tuple[int, int]], shape: Shape, device: torch.device | str, seed: int = 0, spare: int = 7
) -> tuple[Spans, Tensor]:
    """(new, length) of each span, those with any number of new tokens first → spans and a random pool.

    Pages are scattered over a pool with `spare` pages more than needed; rows of the table are in no order and
    the table is wider than any sequence. Page 0 is scratch and belongs to nobody.
    """
    chance = torch.Generator().manual_seed(seed)
    prefills = sum(1 for new, _ in spans if new != 1)
    assert all(new != 1 for new, _ in spans[:prefills])
    counts = [-(-length // shape.page_size) for _, length in spans]
    pages = 1 + torch.randperm(sum(counts) + spare, generator=chance)
    rows = torch.randperm(len(spans) + 2, generator=chance)[: len(spans)]
    table = torch.full((len(spans) + 2, max(counts) + 3), 2**30, dtype=torch.int32)
    used = 0
    for row, count in zip(rows.tolist(), counts, strict=True):
        table[row, :count] = pages[used : used + count]
        used += count
    dimensions = (len(pages) + 1, shape.kv_heads, shape.layers, 2, shape.page_size, shape.head_dim)
    device_chance = torch.Generator(device).manual_seed(seed)
    pool = torch.randn(dimensions, generator=device_chance, device=device, dtype=shape.dtype)
    return ragged(spans, prefills, table, rows, device), pool


def ragged(
    spans: list[tuple[int, int]], prefills: int, table: Tensor, rows: Tensor, device: torch.device | str
) -> Spans:
    new, lengths = [n for n, _ in spans], [length for _, length in spans]
    positions = [torch.arange(length - n, length) for n, length in spans]
    starts = [sum(new[:i]) for i in range(len(new) + 1)]
    token_rows = torch.repeat_interleave(rows, torch.tensor(new))

    def put(values: list[int] | Tensor) -> Tensor:
        """At an address that no kernel may take for an aligned one."""
        flat = torch.as_tensor(values).to(torch.int32)
        room = torch.zeros(flat.numel() + 1, dtype=torch.int32, device=device)
        room[1:] = flat.flatten()
        return room[1:].view(flat.shape)

    return Spans(
        table=put(table),
        rows=put(rows),
        starts=put(starts),
        lengths=put(lengths),
        positions=put(torch.cat(positions)),
        token_rows=put(token_rows),
        prefills=prefills,
        host=HostShape(new=tuple(new), lengths=tuple(lengths)),
    )


def rope_table(positions: int, head_dim: int, device: torch.device | str, theta: float = 1e6) -> Tensor:
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=device).double() / head_dim)
    angle = torch.arange(positions, device=device).double()[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1).float()
