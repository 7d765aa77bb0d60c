"""Decode attention over the pool with decode.cu: one launch a layer, capturable in a graph.

The engine's attention hands it the steps (or the part of a step) in which every span is one new token.
It owns its scratch memory, so two launches of one object must be ordered on one stream. It reads
`lengths`, `rows` and `table` on the device alone and must never look at `spans.host`. Queries and outputs are
bf16; the pool is too, or has eight bits, which the kernel widens behind the copy engine: half the bytes.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from baton.attention.base import UNSCALED, Scales, Spans
from baton.attention.hopper.compiler import Tuning, build, cache_directory, cubin_path, find_nvcc
from baton.attention.hopper.driver import Kernel, TensorMap, describe
from baton.core.errors import Misconfigured

_TILE = 16  # tokens; shares.h
_MAX_GROUP = 16
"""Queries of a pair: what a warp's registers hold."""
_MAX_BATCH = 1024
_SHARED_LIMIT = 227 * 1024  # bytes of one block, compute capability 9.0


class _Step(ctypes.Structure):
    """decode.cu's Step, field by field."""

    _fields_ = [
        ("q", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("peaks", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("q_stride", ctypes.c_int),
        ("batch", ctypes.c_int),
        ("kv_heads", ctypes.c_int),
        ("layers", ctypes.c_int),
        ("layer", ctypes.c_int),
        ("table_stride", ctypes.c_int),
        ("page_tiles", ctypes.c_int),
        ("window", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("value_scale", ctypes.c_float),
    ]


class HopperDecode:
    """`Attention` for spans without prefills. Equal inputs give equal bits, whatever the timing."""

    def __init__(
        self,
        pool: Tensor,
        heads: int,
        kv_heads: int,
        scale: float,
        max_batch: int,
        window: int | None = None,
        tuning: Tuning | None = None,
        overlap: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        scales: Sequence[Scales] = (),
        lines: int = 1,
    ) -> None:
        """`pool` [page, kv_head, layer, k_or_v, slot, head_dim] keeps its address. `overlap`: a launch
        may begin while the kernel before it ends; it waits before it touches q, the pool or its scratch.
        `dtype` is the queries'; `scales` has one entry for each layer. `lines`: the most tokens that one
        sequence of a batch has, which read what they share once; no more than `most_lines`."""
        reason = self.supported(pool, heads, kv_heads, max_batch, tuning, dtype)
        if reason is not None:
            raise Misconfigured(f"the Hopper decode kernel does not serve this: {reason}")
        tuning = tuning or default_tuning(pool.shape[-1], pool.itemsize, lines)
        self._pool, self._heads, self._kv_heads, self._max_batch = pool, heads, kv_heads, max_batch
        self._head_dim, self._layers = pool.shape[-1], pool.shape[2]
        self._scales = tuple(scales) or (UNSCALED,) * self._layers
        self._plain_scale, self._scale = scale, scale * math.log2(math.e)
        self._overlap = overlap
        group = heads // kv_heads
        assert 1 <= lines <= most_lines(group) and (lines == 1 or window is None)
        self.lines, queries = lines, group * lines
        """Tokens of one sequence in a batch, at most."""
        self._window = window
        self._of_spans: HopperDecode | None = None
        grid = torch.cuda.get_device_properties(pool.device).multi_processor_count
        warps = grid * tuning.warps

        # Every word of a part is all ones (a NaN) while the part is absent; the kernel restores that.
        self._parts = torch.full(
            (warps, queries, self._head_dim + 2), -1, dtype=torch.int32, device=pool.device
        )
        self._map = _describe_pool(pool)
        cubin = build(
            cache_directory(), find_nvcc(), self._head_dim, group, tuning, pool.itemsize == 1, lines
        )
        shared = _shared_bytes(self._head_dim, pool.itemsize, queries, max_batch, tuning)
        with torch.cuda.device(pool.device):
            self._kernel = Kernel(cubin, "decode", grid, tuning.warps * 32, shared, overlap)
        self._step = _Step(
            sums=self._parts.data_ptr(),
            peaks=self._parts.data_ptr() + warps * queries * self._head_dim * 4,
            kv_heads=kv_heads,
            layers=self._layers,
            page_tiles=pool.shape[4] // _TILE,
            window=window or 0,
        )

    @staticmethod
    def supported(
        pool: Tensor, heads: int, kv_heads: int, max_batch: int = 1, tuning: Tuning | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> str | None:  # fmt: skip
        """Why this shape or machine cannot be served, or None. Cheap; compiles nothing."""
        if dtype != torch.bfloat16:
            return f"queries are {dtype}, not bfloat16"
        if (reason := _unfit_shape(pool, heads, kv_heads, max_batch, tuning)) is not None:
            return reason
        if not pool.is_cuda:
            return "the pool is not in GPU memory"
        if torch.cuda.get_device_capability(pool.device) != (9, 0):
            return "the GPU is not compute capability 9.0"
        chosen = tuning or default_tuning(pool.shape[-1], pool.itemsize)
        eight_bits = pool.itemsize == 1
        built = cubin_path(cache_directory(), pool.shape[-1], heads // kv_heads, chosen, eight_bits)
        if find_nvcc() is None and not built.exists():
            return "nvcc was not found and no built kernel is in the cache"
        return None

    @property
    def plans(self) -> bool:
        return False

    def graph(self, size: int) -> HopperDecode:
        """Every batch size is captured as it is: the kernel reads all it needs on the device."""
        return self

    def graph_spans(self, size: int) -> HopperDecode | None:
        """The same pool read once for up to `lines` tokens of a sequence; None where that is no use."""
        lines = most_lines(self._heads // self._kv_heads)
        if lines == 1 or self._window is not None:
            return None
        if self._of_spans is None:
            self._of_spans = HopperDecode(
                self._pool, self._heads, self._kv_heads, self._plain_scale, self._max_batch,
                overlap=self._overlap, scales=self._scales, lines=lines,
            )  # fmt: skip
        return self._of_spans

    def plan(self, spans: Spans) -> None:
        """Nothing to do: the kernel divides the work itself."""

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        if self.lines == 1:
            assert spans.prefills == 0, "decode attention was given a prefill"
            return self.decode(q, layer, spans.table, spans.rows, spans.lengths, out)
        return self.decode(q, layer, spans.table, spans.rows, spans.lengths, out, spans.starts)

    def decode(
        self, q: Tensor, layer: int, table: Tensor, rows: Tensor, lengths: Tensor, out: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """q [N, heads, head_dim] → [N, heads * head_dim]; sequence i has `lengths[i]` tokens in the pages
        `table[rows[i]]`. A length of 0 yields zeros and reads no page.

        Where `lines` are more than one, the tokens of sequence i are those of q from `starts[i]` up to
        `starts[i + 1]`, and the last of them sees all of its length; a length of 0 has none."""
        batch = len(rows)
        if out is None:
            out = torch.empty((q.shape[0], self._heads * self._head_dim), dtype=q.dtype, device=q.device)
        self._check(q, layer, table, rows, lengths, out, starts)
        if batch == 0:
            return out
        step = self._step
        step.q, step.out = q.data_ptr(), out.data_ptr()
        step.table, step.rows, step.lengths = table.data_ptr(), rows.data_ptr(), lengths.data_ptr()
        step.starts = None if starts is None else starts.data_ptr()
        step.scale, step.value_scale = self._scale * self._scales[layer].k, self._scales[layer].v
        step.q_stride, step.batch, step.layer, step.table_stride = q.stride(0), batch, layer, table.stride(0)
        with torch.cuda.device(q.device):
            self._kernel.launch(torch.cuda.current_stream().cuda_stream, self._map, step)
        return out

    def _check(
        self, q: Tensor, layer: int, table: Tensor, rows: Tensor, lengths: Tensor, out: Tensor,
        starts: Tensor | None,
    ) -> None:  # fmt: skip
        batch = len(rows)
        if starts is None:
            assert self.lines == 1 and batch == q.shape[0]
        else:
            assert self.lines > 1 and starts.shape == (batch + 1,)
            assert starts.dtype == torch.int32 and starts.is_contiguous()
        assert batch <= self._max_batch, f"batch {batch} exceeds max_batch {self._max_batch}"
        assert 0 <= layer < self._layers, f"no layer {layer}"
        assert q.shape[1:] == (self._heads, self._head_dim) and q.dtype == torch.bfloat16
        assert q.stride()[1:] == (self._head_dim, 1) and q.stride(0) % 2 == 0 and q.data_ptr() % 4 == 0
        assert out.is_contiguous() and out.dtype == q.dtype and out.numel() == q.numel()
        assert table.dtype == rows.dtype == lengths.dtype == torch.int32
        assert table.stride(1) == 1 and rows.shape == lengths.shape == (batch,)
        assert rows.is_contiguous() and lengths.is_contiguous()


def most_lines(group: int) -> int:
    """Tokens of one sequence that a batch may have, for so many query heads a KV head."""
    return min(8, _MAX_GROUP // group)


def default_tuning(head_dim: int, itemsize: int = 2, lines: int = 1) -> Tuning:
    """As many bytes on their way whatever a tile takes: 16 KiB a warp."""
    return Tuning(stages=512 // (head_dim * itemsize), overhead=1 if lines == 1 else 2)


def _shared_bytes(head_dim: int, itemsize: int, queries: int, max_batch: int, tuning: Tuning) -> int:
    """Ring, its alignment to 1024, one part a warp, barriers, and what is known of each sequence."""
    part = 4 * (queries * head_dim + -(-2 * queries // 4) * 4)
    stage = 2 * _TILE * head_dim * itemsize + 8
    return 1024 + tuning.warps * (tuning.stages * stage + part) + 4 * (5 * max_batch + 2)


def _unfit_shape(
    pool: Tensor, heads: int, kv_heads: int, max_batch: int, tuning: Tuning | None
) -> str | None:
    if pool.dim() != 6 or pool.shape[1] != kv_heads or pool.shape[3] != 2 or not pool.is_contiguous():
        return f"the pool is not a contiguous [page, {kv_heads}, layer, 2, slot, head_dim]"
    pages, _, layers, _, page_size, head_dim = pool.shape
    if pool.dtype not in (torch.bfloat16, torch.float8_e4m3fn):
        return f"the pool holds {pool.dtype}, not bfloat16 or float8_e4m3fn"
    if head_dim not in (64, 128):
        return f"head_dim is {head_dim}, not 64 or 128"
    if page_size % _TILE != 0:
        return f"the page size {page_size} is no multiple of {_TILE}"
    if heads % kv_heads != 0 or heads // kv_heads > _MAX_GROUP:
        return f"{heads} query heads over {kv_heads} KV heads is no whole ratio up to {_MAX_GROUP}"
    if pages * kv_heads * layers * 2 >= 2**31:
        return "the pool has too many planes to number in 32 bits"
    if max_batch > _MAX_BATCH:
        return f"max_batch {max_batch} is over {_MAX_BATCH}"
    tuning = tuning or default_tuning(head_dim, pool.itemsize)
    shared = _shared_bytes(head_dim, pool.itemsize, heads // kv_heads, max_batch, tuning)
    if shared + 256 > _SHARED_LIMIT:
        return "the ring does not fit into shared memory"
    return None


def _describe_pool(pool: Tensor) -> TensorMap:
    """(dim of a half, slot, half, plane): one copy fetches a tile's K and V of one (page, head, layer). A
    half is 128 bytes; where all of head_dim takes no more, it is the only one."""
    pages, kv_heads, layers, _, page_size, head_dim = pool.shape
    itemsize = pool.itemsize
    wide = min(head_dim, 128 // itemsize)
    planes, halves = pages * kv_heads * layers * 2, head_dim // wide
    strides = (head_dim * itemsize, 128, page_size * head_dim * itemsize)
    sizes, box = (wide, page_size, halves, planes), (wide, _TILE, halves, 2)
    return describe(pool.data_ptr(), sizes, strides, box, itemsize)
