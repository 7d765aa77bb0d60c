"""Attention over the pool in Triton alone: any GPU that Triton serves, any float dtype, any page size; pools
in eight bits from compute capability 8.9 on.

Constructed like the other backends. Needs no plan on the host and no compiled library, so a captured decode
batch asks the host nothing; it is slower than FlashInfer where that runs. Launches `triton_attend`; never
waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from baton.attention.base import UNSCALED, Scales, Spans
from baton.attention.triton_attend import attend_tiles, join_parts
from baton.kernels.early import starts_early

MAX_PARTS = 32
PROGRAMS = 132 * 8
"""Programs that keep an H200 busy, short sequences beside long ones."""


@dataclass(frozen=True, slots=True)
class _Tile:
    rows: int
    tokens: int
    warps: int
    stages: int


class TritonAttention:
    """`Attention` for CUDA. Each instance holds one step's plan; `graph` makes one for a captured batch."""

    plans = False
    """A replay asks nothing of the host."""

    def __init__(
        self,
        pool: Tensor,
        heads: int,
        kv_heads: int,
        scale: float,
        *,
        window: int | None = None,
        pdl: bool | None = None,
        programs: int = PROGRAMS,
        dtype: torch.dtype | None = None,
        scales: Sequence[Scales] = (),
    ) -> None:
        """`heads` and `kv_heads` are this rank's; `window` is how many tokens a token sees, itself included.
        `pdl` launches kernels before the one ahead has ended, None where the device can. Decode cuts
        sequences into parts until about as many programs run as `programs`. `dtype` is the queries', None
        if it is the pool's; `scales` has one entry for each layer."""
        pdl = starts_early(pool.device) if pdl is None else pdl
        _, _, _, _, page_size, head_dim = pool.shape
        assert pool.shape[1] == kv_heads, "the pool is of other heads"
        self._pool, self._heads, self._scale, self._window = pool, heads, scale, window
        self._kv_heads, self._page_size, self._head_dim = kv_heads, page_size, head_dim
        self._group = heads // kv_heads
        self._programs = programs
        self._pdl = pdl
        self._options = {"PDL": True, "launch_pdl": True} if pdl else {"PDL": False}
        self._dtype = dtype or pool.dtype
        self._scales = tuple(scales) or (UNSCALED,) * pool.shape[2]
        self._precision = "ieee" if self._dtype == torch.float32 else "tf32"
        self._prefill_tokens = 0
        self._tiles = 0
        self._prefill_tile, self._decode_tile = tiles(self._group, head_dim, self._dtype)

    def __repr__(self) -> str:
        return f"TritonAttention(heads={self._heads}, kv_heads={self._kv_heads}, head_dim={self._head_dim})"

    def plan(self, spans: Spans) -> None:
        if spans.prefills == 0:
            self._prefill_tokens = self._tiles = 0
            return
        assert spans.host is not None, "prefill needs the host's shape"
        new = spans.host.new[: spans.prefills]
        self._prefill_tokens = sum(new)
        self._tiles = sum(-(-n * self._group // self._prefill_tile.rows) for n in new)

    def graph(self, size: int) -> TritonAttention:
        """An `Attention` for a captured decode batch."""
        return TritonAttention(
            self._pool, self._heads, self._kv_heads, self._scale,
            window=self._window, pdl=self._pdl, programs=self._programs, dtype=self._dtype,
            scales=self._scales,
        )  # fmt: skip

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        found = torch.empty_like(q) if out is None else out.view(q.shape)
        if self._tiles:
            grid = (self._tiles, self._kv_heads, 1)
            self._launch(grid, q, found, layer, spans, 0, spans.prefills, self._prefill_tile, (found, found))
        decodes = q.shape[0] - self._prefill_tokens
        if decodes:
            self._decode(q, found, layer, spans, decodes)
        return found.flatten(1)

    def _decode(self, q: Tensor, out: Tensor, layer: int, spans: Spans, decodes: int) -> None:
        parts = max(1, min(MAX_PARTS, self._programs // (decodes * self._kv_heads)))
        if parts == 1:
            sums = tops = out
        else:
            sums = torch.empty((q.shape[0], self._heads, parts, self._head_dim), device=q.device)
            tops = torch.empty((q.shape[0], self._heads, parts), device=q.device)
        grid = (decodes, self._kv_heads, parts)
        self._launch(grid, q, out, layer, spans, spans.prefills, decodes, self._decode_tile, (sums, tops))
        if parts > 1:
            join_parts[(decodes * self._heads,)](
                sums, tops, out, self._prefill_tokens * self._heads, parts, D=self._head_dim, num_warps=1,
                **self._options,
            )  # fmt: skip

    def _launch(
        self,
        grid: tuple[int, int, int],
        q: Tensor,
        out: Tensor,
        layer: int,
        spans: Spans,
        first_span: int,
        count: int,
        tile: _Tile,
        parts: tuple[Tensor, Tensor],
    ) -> None:
        page_stride, head_stride, layer_stride, value_stride, _, _ = self._pool.stride()
        scales = self._scales[layer]
        attend_tiles[grid](
            q, self._pool, spans.table, spans.rows, spans.starts, spans.lengths, out, *parts, layer,
            first_span, count, grid[2], self._scale * scales.k, scales.v, spans.table.stride(0), page_stride,
            head_stride, layer_stride,
            GROUP=self._group, WINDOW=self._window or 0, D=self._head_dim, PAGE=self._page_size,
            BLOCK_M=tile.rows, BLOCK_N=tile.tokens, VALUES=value_stride, DECODE=first_span == spans.prefills,
            SPLIT=grid[2] > 1, PRECISION=self._precision, num_warps=tile.warps, num_stages=tile.stages,
            **self._options,
        )  # fmt: skip


def tiles(group: int, head_dim: int, dtype: torch.dtype) -> tuple[_Tile, _Tile]:
    """Tiles for prefill and decode: a decode tile holds every query head of one KV head."""
    least = max(16, triton.next_power_of_2(group))
    if dtype == torch.float32:
        return _Tile(max(32, least), 32, 4, 1), _Tile(least, 32, 4, 1)
    return _Tile(128, 64, 8, 3), _Tile(least, min(128, 16384 // head_dim), 4, 2)
