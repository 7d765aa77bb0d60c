"""Attention over the pool with FlashInfer: what a CUDA engine runs.

Constructed once by the engine with the pool; the runner calls `plan` before a step and the model's layers
call `attend`. FlashInfer takes a layer of the page-first pool as it lies, as head-major tensors with their
own strides. Prefill spans go to its FA3 kernels on Hopper (FA2 elsewhere), decode spans to its tensor-core
decode; both work by a plan that the host makes from the lengths.

`plan`, `attend` and replays must be on one stream. A plan stages its numbers in one pinned buffer per
wrapper and copies from it when the stream gets there: the next plan of that wrapper waits for that copy,
or a step in flight would run by its successor's numbers. It must never be given a float32 pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import flashinfer
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton.attention.base import HostShape, Spans
from baton.attention.triton_pages import list_pages
from baton.core.errors import InvalidSetting

GRAPH_PLAN_BYTES = 256 << 10
"""A captured decode wrapper's plan is a few numbers for each sequence and multiprocessor."""
MIN_WORKSPACE_BYTES = 128 << 20

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What every plan repeats."""

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    dtype: torch.dtype
    scale: float


@dataclass(frozen=True, slots=True)
class _Ragged:
    """The shape of consecutive spans, in pinned memory."""

    ends: Tensor
    """[S + 1] int32: where each span's pages begin and end in the list of pages."""
    last: Tensor
    """[S] int32: tokens in the last page."""
    lengths: Tensor
    """[S] int32"""


class FlashInferAttention:
    """`Attention` for CUDA, bf16 and fp16, eager; `graph` makes one for a captured decode batch."""

    def __init__(
        self,
        pool: Tensor,
        heads: int,
        scale: float,
        windows: Sequence[int | None],
        *,
        max_batch: int,
        max_pages: int,
        pdl: bool | None = None,
    ) -> None:
        """pool [page, kv_head, layer, k_or_v, slot, head_dim]; `heads` are this rank's query heads; `windows`
        has one entry a layer: how many tokens a token sees, itself included, or None for all. `max_batch` and
        `max_pages` (of one sequence) bound what graphs will be asked for. `pdl` lets FlashInfer's kernels
        start before the one ahead has ended; None leaves it to FlashInfer."""
        if pool.dtype not in (torch.bfloat16, torch.float16):
            raise InvalidSetting("attention", f"flashinfer computes in bfloat16 and float16, not {pool.dtype}")
        _, kv_heads, layers, _, page_size, head_dim = pool.shape
        if len(windows) != layers:
            raise ValueError(f"{len(windows)} windows for {layers} layers")
        self._geometry = _Geometry(heads, kv_heads, head_dim, page_size, pool.dtype, scale)
        self._device = pool.device
        self._layers = tuple((pool[:, :, layer, 0], pool[:, :, layer, 1]) for layer in range(layers))
        self._windows = tuple(windows)
        self._max_batch, self._max_pages, self._pdl = max_batch, max_pages, pdl
        self._workspace = torch.zeros(
            workspace_bytes(pool, heads, max_batch), dtype=torch.uint8, device=self._device
        )
        hopper = torch.cuda.get_device_capability(self._device)[0] == 9
        prefill = "fa3" if hopper and head_dim in (64, 128, 256) else "fa2"
        self._prefill = {w: self._prefill_wrapper(prefill) for w in set(windows)}
        self._decode = {w: self._decode_wrapper() for w in set(windows)}
        self._copied = torch.cuda.Event()
        self._prefill_tokens = 0
        self._buffers: _GraphBuffers | None = None

    def __repr__(self) -> str:
        return f"FlashInferAttention({self._geometry}, windows={set(self._windows)})"

    def _prefill_wrapper(self, backend: str) -> flashinfer.BatchPrefillWithPagedKVCacheWrapper:
        return flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "HND", backend=backend)

    def _decode_wrapper(self) -> flashinfer.BatchDecodeWithPagedKVCacheWrapper:
        return flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace, "HND", use_tensor_cores=True, backend="fa2"
        )

    def plan(self, spans: Spans) -> None:
        host = _host(spans)
        lengths = np.asarray(host.lengths, np.int32)
        pages = -(-lengths // self._geometry.page_size)
        split = int(pages[: spans.prefills].sum())
        listed = torch.empty(int(pages.sum()), dtype=torch.int32, device=self._device)
        list_pages(spans.table, spans.rows, spans.lengths, int(pages.max()), self._geometry.page_size, listed)
        self._prefill_tokens = sum(host.new[: spans.prefills])
        self._copied.synchronize()
        if spans.prefills:
            ragged = _ragged(lengths[: spans.prefills], pages[: spans.prefills], self._geometry.page_size)
            self._plan_prefill(ragged, _pinned(_ends(host.new[: spans.prefills])), listed[:split])
        if len(lengths) > spans.prefills:
            ragged = _ragged(lengths[spans.prefills :], pages[spans.prefills :], self._geometry.page_size)
            self._plan_decode(ragged, listed[split:])
        self._copied.record()

    def _plan_prefill(self, ragged: _Ragged, starts: Tensor, pages: Tensor) -> None:
        g = self._geometry
        for window, wrapper in self._prefill.items():
            wrapper.plan(
                starts, ragged.ends, pages, ragged.last, g.heads, g.kv_heads, g.head_dim, g.page_size,
                causal=True, sm_scale=g.scale, window_left=_window_left(window), q_data_type=g.dtype,
                kv_data_type=g.dtype, seq_lens=ragged.lengths,
            )  # fmt: skip

    def _plan_decode(self, ragged: _Ragged, pages: Tensor) -> None:
        g = self._geometry
        for window, wrapper in self._decode.items():
            wrapper.plan(
                ragged.ends, pages, ragged.last, g.heads, g.kv_heads, g.head_dim, g.page_size,
                sm_scale=g.scale, window_left=_window_left(window), q_data_type=g.dtype, kv_data_type=g.dtype,
                seq_lens=ragged.lengths,
            )  # fmt: skip

    def attend(self, q: Tensor, layer: int, spans: Spans) -> Tensor:
        out = torch.empty_like(q)
        first, window = self._prefill_tokens, self._windows[layer]
        if first:
            self._prefill[window].run(q[:first], self._layers[layer], out=out[:first], enable_pdl=self._pdl)
        if first < q.shape[0]:
            self._decode[window].run(q[first:], self._layers[layer], out=out[first:], enable_pdl=self._pdl)
        return out.flatten(1)

    def graph(self, batch_size: int) -> DecodeGraph:
        """An `Attention` for a captured batch of exactly `batch_size` decode spans."""
        if batch_size > self._max_batch:
            raise InvalidSetting("max_batch", f"a graph of {batch_size} needs more than {self._max_batch}")
        if self._buffers is None:
            self._buffers = _GraphBuffers.make(self._max_batch, self._max_pages, self._device)
        return DecodeGraph(
            self._geometry, self._layers, self._windows, self._workspace, self._buffers, batch_size, self._pdl
        )


@dataclass(frozen=True, slots=True)
class _GraphBuffers:
    """What captured kernels read, at fixed addresses; one graph runs at a time, so all share these."""

    pages: Tensor
    ends: Tensor
    last: Tensor

    @classmethod
    def make(cls, max_batch: int, max_pages: int, device: torch.device) -> _GraphBuffers:
        return cls(
            torch.zeros(max_batch * max_pages, dtype=torch.int32, device=device),
            torch.arange(max_batch + 1, dtype=torch.int32, device=device),
            torch.ones(max_batch, dtype=torch.int32, device=device),
        )


class DecodeGraph:
    """`Attention` of one captured batch size: `plan` before each replay, outside the graph; `attend` inside.

    The spans' tensors have `batch_size` rows, those beyond the real batch with length 1 in the scratch page;
    the host's shape may leave the padding out.
    """

    def __init__(
        self,
        geometry: _Geometry,
        layers: Sequence[tuple[Tensor, Tensor]],
        windows: Sequence[int | None],
        workspace: Tensor,
        buffers: _GraphBuffers,
        batch_size: int,
        pdl: bool | None,
    ) -> None:
        self._geometry, self._layers, self._windows, self._pdl = geometry, layers, windows, pdl
        self._batch_size = batch_size
        self._buffers = buffers
        self._copied = torch.cuda.Event()
        self._wrappers = {w: self._wrapper(workspace) for w in set(windows)}
        ones = np.ones(batch_size, np.int32)
        ragged = _ragged(ones, ones, geometry.page_size)
        pages = torch.zeros(batch_size, dtype=torch.int32, device=workspace.device)
        for window, wrapper in self._wrappers.items():  # the full plan, once: it loads the kernels
            wrapper.plan(ragged.ends, pages, ragged.last, **self._arguments(window), seq_lens=ragged.lengths)
        self._copied.record()

    def __repr__(self) -> str:
        return f"DecodeGraph(batch_size={self._batch_size}, {self._geometry})"

    def _wrapper(self, workspace: Tensor) -> flashinfer.BatchDecodeWithPagedKVCacheWrapper:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace,
            "HND",
            use_cuda_graph=True,
            use_tensor_cores=True,
            paged_kv_indptr_buffer=self._buffers.ends[: self._batch_size + 1],
            paged_kv_indices_buffer=self._buffers.pages,
            paged_kv_last_page_len_buffer=self._buffers.last[: self._batch_size],
            backend="fa2",
        )
        plan = torch.empty(GRAPH_PLAN_BYTES, dtype=torch.uint8, device=workspace.device)
        wrapper.reset_workspace_buffer(workspace, plan)
        return wrapper

    def _arguments(self, window: int | None) -> dict[str, object]:
        g = self._geometry
        return {
            "num_qo_heads": g.heads,
            "num_kv_heads": g.kv_heads,
            "head_dim": g.head_dim,
            "page_size": g.page_size,
            "sm_scale": g.scale,
            "window_left": _window_left(window),
            "q_data_type": g.dtype,
            "kv_data_type": g.dtype,
        }

    def plan(self, spans: Spans) -> None:
        lengths = np.ones(self._batch_size, np.int32)
        known = _host(spans).lengths
        lengths[: len(known)] = known
        pages = -(-lengths // self._geometry.page_size)
        buffers = self._buffers
        total = int(pages.sum())
        assert total <= len(buffers.pages), "more pages than graphs were made for"
        list_pages(
            spans.table, spans.rows, spans.lengths, int(pages.max()), self._geometry.page_size,
            buffers.pages, buffers.ends, buffers.last,
        )  # fmt: skip
        ragged = _ragged(lengths, pages, self._geometry.page_size)
        listed = buffers.pages[:total]
        self._copied.synchronize()
        for window, wrapper in self._wrappers.items():
            flashinfer.fast_decode_plan(
                wrapper, ragged.ends, listed, ragged.last, **self._arguments(window),
                global_override_indptr_cpu=ragged.ends,
            )  # fmt: skip
        self._copied.record()

    def attend(self, q: Tensor, layer: int, spans: Spans) -> Tensor:
        wrapper = self._wrappers[self._windows[layer]]
        out = torch.empty_like(q)
        wrapper.run(q, self._layers[layer], out=out, enable_pdl=self._pdl)
        return out.flatten(1)


def workspace_bytes(pool: Tensor, heads: int, max_batch: int) -> int:
    """What FlashInfer needs for the parts of split sequences: float32 rows of tiles, two tiles a multiprocessor
    or one a sequence."""
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


def _window_left(window: int | None) -> int:
    """FlashInfer counts the tokens before this one, and calls no window −1."""
    return -1 if window is None else window - 1


def _ends(counts: Sequence[int] | Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int32)


def _ragged(lengths: Ints, pages: Ints, page_size: int) -> _Ragged:
    last = lengths - (pages - 1) * page_size
    return _Ragged(_pinned(_ends(pages)), _pinned(last.astype(np.int32)), _pinned(lengths))


def _pinned(values: Ints) -> Tensor:
    """Pinned, so that FlashInfer's copies to the device do not wait; torch keeps the memory until they ran."""
    out = torch.empty(len(values), dtype=torch.int32, pin_memory=True)
    out.numpy()[:] = values
    return out
