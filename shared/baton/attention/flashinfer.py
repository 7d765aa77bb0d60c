"""Attention over the pool with FlashInfer: what a CUDA engine runs.

Constructed once by the engine with the pool; the runner calls `plan` before a step and the model's layers
call `attend`. FlashInfer takes a layer of the page-first pool as it lies, as head-major tensors with their
own strides. Prefill spans go to its FA3 kernels on Hopper (FA2 elsewhere), decode spans to its tensor-core
decode; both work by a plan that the host makes from the lengths. Its FA3 wants queries in eight bits where
keys and values are, so a pool in eight bits is prefilled by FA2, which widens them in registers.

`plan`, `attend` and replays must be on one stream. A plan stages its numbers in one pinned buffer per
wrapper and copies from it when the stream gets there: the next plan of that wrapper waits for that copy,
or a step in flight would run by its successor's numbers. It must never be given a float32 pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flashinfer
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton.attention.base import UNSCALED, HostShape, Scales, Spans
from baton.attention.triton_pages import list_pages
from baton.core.errors import InvalidSetting

GRAPH_PLAN_BYTES = 256 << 10
"""A captured decode's plan is a few numbers for each sequence and multiprocessor."""
MIN_WORKSPACE_BYTES = 128 << 20

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Setup:
    """What every plan and every launch repeats."""

    pool: Tensor
    heads: int
    kv_heads: int
    scale: float
    window: int | None
    workspace: Tensor
    """For the parts of split sequences. All wrappers share it, since one runs at a time."""
    pdl: bool | None
    dtype: torch.dtype
    """Of queries and outputs."""
    scales: tuple[Scales, ...]
    """[layers]."""

    @property
    def head_dim(self) -> int:
        return self.pool.shape[5]

    @property
    def page_size(self) -> int:
        return self.pool.shape[4]

    def arguments(self) -> dict[str, Any]:
        """Of a plan."""
        return {
            "num_qo_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "page_size": self.page_size,
            "sm_scale": self.scale,
            # FlashInfer counts the tokens before this one, and calls no window -1.
            "window_left": -1 if self.window is None else self.window - 1,
            "q_data_type": self.dtype,
            "kv_data_type": self.pool.dtype,
        }

    def layers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """K and V of each layer, [page, kv_head, slot, head_dim]."""
        return tuple((self.pool[:, :, i, 0], self.pool[:, :, i, 1]) for i in range(self.pool.shape[2]))

    def options(self, layer: int) -> dict[str, Any]:
        """Of a launch. A scale of V is a kernel more, so none is given that changes nothing."""
        scales = self.scales[layer]
        return {"enable_pdl": self.pdl, "k_scale": scales.k, "v_scale": None if scales.v == 1.0 else scales.v}


@dataclass(frozen=True, slots=True)
class _Ragged:
    """The shape of consecutive spans, in pinned memory."""

    ends: Tensor
    """[S + 1] int32: where each span's pages begin and end in the list of pages."""
    last: Tensor
    """[S] int32: tokens in the last page."""
    lengths: Tensor
    """[S] int32."""

    @classmethod
    def of(cls, lengths: Ints, page_size: int) -> _Ragged:
        pages = -(-lengths // page_size)
        last = lengths - (pages - 1) * page_size
        return cls(_pinned(_ends(pages)), _pinned(last), _pinned(lengths))

    @property
    def pages(self) -> int:
        return int(self.ends[-1])


class FlashInferAttention:
    """`Attention` for CUDA, bf16 and fp16 over a pool of the same or of eight bits, eager; `graph` makes one
    for a captured decode batch."""

    plans = True
    """Needs the host's lengths before every step, replays included."""

    def __init__(
        self,
        pool: Tensor,
        heads: int,
        kv_heads: int,
        scale: float,
        max_batch: int,
        *,
        window: int | None = None,
        pdl: bool | None = None,
        dtype: torch.dtype | None = None,
        scales: Sequence[Scales] = (),
    ) -> None:
        """pool [page, kv_head, layer, k_or_v, slot, head_dim]; `heads` and `kv_heads` are this rank's;
        `max_batch` bounds what graphs will be asked for; `window` is how many tokens a token sees, itself
        included. `pdl` lets FlashInfer's kernels start before the one ahead has ended; None leaves it to
        FlashInfer. `dtype` is the queries', None if it is the pool's; `scales` has one for each layer."""
        dtype = dtype or pool.dtype
        eight_bits = pool.dtype == torch.float8_e4m3fn
        if dtype not in (torch.bfloat16, torch.float16) or not (eight_bits or pool.dtype == dtype):
            raise InvalidSetting(
                "attention",
                f"flashinfer has no kernels for queries of {dtype} over a pool of {pool.dtype}: "
                "set attention to triton, or dtype to bfloat16",
            )
        assert pool.shape[1] == kv_heads, "the pool is of other heads"
        workspace = torch.zeros(
            workspace_bytes(pool, heads, max_batch), dtype=torch.uint8, device=pool.device
        )
        of_layers = tuple(scales) or (UNSCALED,) * pool.shape[2]
        self._setup = _Setup(pool, heads, kv_heads, scale, window, workspace, pdl, dtype, of_layers)
        self._layers = self._setup.layers()
        self._max_batch = max_batch
        hopper = torch.cuda.get_device_capability(pool.device)[0] == 9
        fast = hopper and self._setup.head_dim in (64, 128, 256) and not eight_bits
        self._prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
            workspace, "HND", backend="fa3" if fast else "fa2"
        )
        self._decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "HND", use_tensor_cores=True, backend="fa2"
        )
        self._copied = torch.cuda.Event()
        self._prefill_tokens = 0
        self._buffers: _GraphBuffers | None = None

    def __repr__(self) -> str:
        return f"FlashInferAttention(heads={self._setup.heads}, kv_heads={self._setup.kv_heads})"

    def plan(self, spans: Spans) -> None:
        host, setup, cut = _host(spans), self._setup, spans.prefills
        lengths = np.asarray(host.lengths, np.int32)
        front, back = (_Ragged.of(part, setup.page_size) for part in (lengths[:cut], lengths[cut:]))
        listed = torch.empty(front.pages + back.pages, dtype=torch.int32, device=setup.pool.device)
        most = -(-int(lengths.max()) // setup.page_size)
        list_pages(spans.table, spans.rows, spans.lengths, most, setup.page_size, listed)
        self._prefill_tokens = sum(host.new[:cut])
        self._copied.synchronize()
        if cut:
            starts = _pinned(_ends(host.new[:cut]))
            self._prefill.plan(
                starts, front.ends, listed[: front.pages], front.last, head_dim_qk=setup.head_dim,
                causal=True, seq_lens=front.lengths, **setup.arguments(),
            )  # fmt: skip
        if cut < len(lengths):
            self._decode.plan(
                back.ends, listed[front.pages :], back.last, head_dim=setup.head_dim,
                seq_lens=back.lengths, **setup.arguments(),
            )  # fmt: skip
        self._copied.record()

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        found = torch.empty_like(q) if out is None else out.view(q.shape)
        first, kv, options = self._prefill_tokens, self._layers[layer], self._setup.options(layer)
        if first:
            self._prefill.run(q[:first], kv, out=found[:first], **options)
        if first < q.shape[0]:
            self._decode.run(q[first:], kv, out=found[first:], **options)
        return found.flatten(1)

    def graph(self, size: int) -> DecodeGraph:
        """An `Attention` for a captured batch of exactly `size` decodes."""
        if size > self._max_batch:
            raise InvalidSetting("max_batch", f"is {self._max_batch}, too small for a graph of {size}")
        if self._buffers is None:
            self._buffers = _GraphBuffers(self._max_batch, self._setup.pool.device)
        return DecodeGraph(self._setup, self._buffers, size)


class _GraphBuffers:
    """What captured kernels read, at fixed addresses; one graph runs at a time, so all share these."""

    def __init__(self, max_batch: int, device: torch.device) -> None:
        self._max_batch = max_batch
        self.ends = torch.arange(max_batch + 1, dtype=torch.int32, device=device)
        self.last = torch.ones(max_batch, dtype=torch.int32, device=device)
        self._pages = torch.zeros(0, dtype=torch.int32, device=device)

    def pages(self, columns: int) -> Tensor:
        """Room for every row of a table this wide. The first caller decides: captured kernels keep it."""
        if self._pages.numel() == 0:
            self._pages = torch.zeros(self._max_batch * columns, dtype=torch.int32, device=self._pages.device)
        assert self._pages.numel() >= self._max_batch * columns, "graphs were made for a narrower table"
        return self._pages


class DecodeGraph:
    """`Attention` of one captured batch size: `plan` before each replay, outside the graph; `attend` inside.

    The plan takes the host's lengths alone. The page table and the lengths on the device are read inside
    the graph, where layer 0 lists the pages for all layers, so the step may change them first. Padding
    lines have length 1 on the device; the host's shape may leave them out.
    """

    plans = True

    def __init__(self, setup: _Setup, buffers: _GraphBuffers, size: int) -> None:
        self._setup, self._buffers, self._size = setup, buffers, size
        self._layers = setup.layers()
        self._copied = torch.cuda.Event()
        self._wrapper: flashinfer.BatchDecodeWithPagedKVCacheWrapper | None = None

    def __repr__(self) -> str:
        return f"DecodeGraph(size={self._size})"

    def plan(self, spans: Spans) -> None:
        lengths = np.ones(self._size, np.int32)
        known = _host(spans).lengths
        lengths[: len(known)] = known
        ragged = _Ragged.of(lengths, self._setup.page_size)
        self._copied.synchronize()
        pages = self._buffers.pages(spans.table.shape[1])
        if self._wrapper is None:
            self._wrapper = self._first(pages, ragged)
        else:
            assert ragged.pages <= len(pages), "a sequence longer than the table"
            flashinfer.fast_decode_plan(
                self._wrapper, ragged.ends, pages[: ragged.pages], ragged.last, head_dim=self._setup.head_dim,
                global_override_indptr_cpu=ragged.ends, **self._setup.arguments(),
            )  # fmt: skip
        self._copied.record()

    def _first(self, pages: Tensor, ragged: _Ragged) -> flashinfer.BatchDecodeWithPagedKVCacheWrapper:
        """The wrapper, planned in full once, which loads its kernels."""
        workspace = self._setup.workspace
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace,
            "HND",
            use_cuda_graph=True,
            use_tensor_cores=True,
            paged_kv_indptr_buffer=self._buffers.ends[: self._size + 1],
            paged_kv_indices_buffer=pages,
            paged_kv_last_page_len_buffer=self._buffers.last[: self._size],
            backend="fa2",
        )
        own = torch.empty(GRAPH_PLAN_BYTES, dtype=torch.uint8, device=workspace.device)
        wrapper.reset_workspace_buffer(workspace, own)
        wrapper.plan(
            ragged.ends, torch.zeros_like(pages[: ragged.pages]), ragged.last, head_dim=self._setup.head_dim,
            seq_lens=ragged.lengths, **self._setup.arguments(),
        )  # fmt: skip
        return wrapper

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        assert self._wrapper is not None, "attend before the first plan"
        if layer == 0:
            buffers = self._buffers
            columns = spans.table.shape[1]
            list_pages(
                spans.table, spans.rows, spans.lengths, columns, self._setup.page_size,
                buffers.pages(columns), buffers.ends, buffers.last,
            )  # fmt: skip
        found = torch.empty_like(q) if out is None else out.view(q.shape)
        self._wrapper.run(q, self._layers[layer], out=found, **self._setup.options(layer))
        return found.flatten(1)


def workspace_bytes(pool: Tensor, heads: int, max_batch: int) -> int:
    """What FlashInfer needs for the parts of split sequences: float32 rows of tiles, of which there are two a
    multiprocessor or one a sequence."""
    kv_heads, head_dim = pool.shape[1], pool.shape[5]
    multiprocessors = torch.cuda.get_device_properties(pool.device).multi_processor_count
    group = heads // kv_heads
    tile = 16 if group <= 16 else 64
    tiles = heads * max(2 * multiprocessors // kv_heads, max_batch)
    decode = tiles * tile * (head_dim + 1) * 4
    prefill = group * 2 * multiprocessors * 128 * (head_dim + 1) * 4
    return max(MIN_WORKSPACE_BYTES, decode + (1 << 20), prefill + (1 << 20))


def _host(spans: Spans) -> HostShape:
    assert spans.host is not None, "a plan needs the lengths on the host"
    return spans.host


def _ends(counts: Sequence[int] | Ints) -> Ints:
    ends = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=ends[1:])
    return ends


def _pinned(values: Ints) -> Tensor:
    """Pinned, so that copies to the device do not wait; torch keeps the memory until they have run."""
    out = torch.empty(len(values), dtype=torch.int32, pin_memory=True)
    out.numpy()[:] = values
    return out
