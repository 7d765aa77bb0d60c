"""Attention in plain torch: what a CPU runs, and the reference for the GPU backends.

For each layer, the pages that the step's queries need are gathered into a scratch buffer, one
contiguous run for each sequence and head, and torch's fused attention runs over it. Sequences of
decode are gathered together with others of like length; spans of prefill go one by one, in tiles of
queries. Which rows to gather is worked out once a step, in `plan`, and serves every layer.

Measured on two cores in float32, 8 sequences of 200 tokens, 4 KV heads of 64: 125 µs to gather and 78 µs
to attend, a layer. Needs finite numbers in the whole pool (zeroed when made): slots past a sequence's
end are gathered too and get a weight of zero. A pool in eight bits is gathered as bytes and widened to the
model's dtype after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from baton.attention.base import UNSCALED, Scales, Spans

QUERY_TILE = 128
"""Queries of a prefill span that are attended together: bounds what is computed only to be masked, and
beats one call with `is_causal` over the whole span (1024 tokens on one core: 17 ms, not 40)."""

BUCKET_BYTES = 640 << 10
"""One more decode bucket costs as much time as gathering this many bytes of KV."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Decode spans that are attended in one call."""

    tokens: Tensor | slice
    """Their places in the flat batch."""
    rows: Tensor
    """[2 * B * kv_heads * pages] rows of the pool's flat view for layer 0: K of each, then V of each."""
    count: int
    mask: Tensor
    """[B, 1, 1, pages * page_size], 0 where a key may be seen and -inf elsewhere."""


@dataclass(frozen=True, slots=True)
class _Prefill:
    """One span of new tokens."""

    start: int
    """Of its first token in the flat batch."""
    new: int
    length: int
    """KV length, the new tokens included."""
    skipped: int
    """Keys before the first gathered page: out of the window of every new token."""
    rows: Tensor
    """[2 * kv_heads * pages] as in `_Bucket`."""


@dataclass(frozen=True, slots=True)
class _Plan:
    prefills: tuple[_Prefill, ...]
    buckets: tuple[_Bucket, ...]


class TorchAttention:
    """`baton.attention.base.Attention` on any device. Asks `spans.host` for shapes, so it cannot be
    captured in a CUDA graph."""

    def __init__(
        self,
        pool: Tensor,
        heads: int,
        scale: float,
        windows: Sequence[int | None],
        *,
        dtype: torch.dtype | None = None,
        scales: Sequence[Scales] = (),
    ) -> None:
        """`pool` [page, kv_head, layer, k_or_v, slot, head_dim] is contiguous; `heads` are this rank's query
        heads; `windows` has one entry for each layer, None for full attention. A pool in eight bits has other
        numbers than the queries: `dtype` is theirs, and `scales` has one entry for each layer."""
        self._pages, self._kv_heads, self._layers, _, self._page_size, self._head_dim = pool.shape
        if len(windows) != self._layers:
            raise ValueError(f"{len(windows)} windows for {self._layers} layers")
        self._dtype = dtype or pool.dtype
        self._eight_bits = pool.dtype if pool.dtype.itemsize == 1 else None
        self._scales = tuple(scales) or (UNSCALED,) * self._layers
        raw = pool if self._eight_bits is None else pool.view(torch.uint8)
        self._rows = raw.view(-1, self._page_size * self._head_dim)
        self._heads = heads
        self._group = heads // self._kv_heads
        self._scale = scale
        self._windows = tuple(windows)
        self._scratch = self._rows.new_empty(0)
        self._masks: dict[int | None, Tensor] = {}
        self._plans: dict[int | None, _Plan] = {}

    def plan(self, spans: Spans) -> None:
        self._plans = {window: self._planned(spans, window) for window in set(self._windows)}

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        window = self._windows[layer]
        plan = self._plans[window]
        found = torch.empty_like(q) if out is None else out.view(q.shape)
        for prefill in plan.prefills:
            self._attend_prefill(q, found, layer, window, prefill)
        for bucket in plan.buckets:
            self._attend_bucket(q, found, layer, bucket)
        return found.flatten(1)

    # -- planning, once a step ---------------------------------------------------------------------

    def _planned(self, spans: Spans, window: int | None) -> _Plan:
        assert spans.host is not None, "the torch backend needs the step's shape on the host"
        new, lengths = spans.host.new, spans.host.lengths
        prefills, token = [], 0
        for span in range(spans.prefills):
            first = lengths[span] - new[span]
            skipped = 0 if window is None else max(0, first - window + 1) // self._page_size
            pages = -(-lengths[span] // self._page_size)
            numbers = spans.table[spans.rows[span], skipped:pages]
            rows = self._gathered_rows(numbers.unsqueeze(0))
            prefills.append(_Prefill(token, new[span], lengths[span], skipped * self._page_size, rows))
            token += new[span]
        decodes = range(spans.prefills, len(lengths))
        return _Plan(tuple(prefills), tuple(self._buckets(spans, decodes, token, window)))

    def _buckets(
        self, spans: Spans, decodes: range, first_token: int, window: int | None
    ) -> Iterator[_Bucket]:
        assert spans.host is not None
        if not decodes:
            return
        size = self._page_size
        lengths = [spans.host.lengths[span] for span in decodes]
        skipped = [0 if window is None else max(0, n - window) // size for n in lengths]
        pages = [-(-n // size) - skip for n, skip in zip(lengths, skipped, strict=True)]
        device = spans.table.device
        for members in bucketed_by_size(pages, self._bucket_pages()):
            together = len(members) == len(lengths)
            which = torch.tensor(members, device=device)
            widest = max(pages[member] for member in members)
            skip = torch.tensor([skipped[member] for member in members], device=device)
            # Pages past a short sequence's end are whatever its row holds there: clamped, then masked.
            columns = (skip.unsqueeze(1) + torch.arange(widest, device=device)).clamp_(
                max=spans.table.shape[1] - 1
            )
            numbers = spans.table[spans.rows[decodes.start + which].unsqueeze(1), columns]
            numbers = numbers.clamp(0, self._pages - 1)
            end = torch.tensor([lengths[member] for member in members], device=device).unsqueeze(1)
            position = skip.unsqueeze(1) * size + torch.arange(widest * size, device=device)
            hidden = position >= end
            if window is not None:
                hidden |= position < end - window
            mask = torch.zeros(hidden.shape, dtype=self._dtype, device=device)
            mask.masked_fill_(hidden, float("-inf"))
            tokens = slice(first_token, first_token + len(lengths)) if together else first_token + which
            yield _Bucket(tokens, self._gathered_rows(numbers), len(members), mask[:, None, None])

    def _bucket_pages(self) -> int:
        """How many pages of waste are worth one more bucket."""
        page_bytes = 2 * self._kv_heads * self._rows.shape[1] * self._rows.element_size()
        return BUCKET_BYTES // page_bytes

    def _gathered_rows(self, numbers: Tensor) -> Tensor:
        """Page numbers [B, pages] → rows of the flat pool at layer 0, ordered K then V, sequence, head, page.
        The row of another layer is two further on for each layer: the same rows in a later-starting view."""
        heads = torch.arange(self._kv_heads, device=numbers.device)
        first = (numbers.long().unsqueeze(1) * self._kv_heads + heads[:, None]) * (2 * self._layers)
        return torch.cat((first.flatten(), first.flatten() + 1))

    # -- attending, once a layer -------------------------------------------------------------------

    def _gather(self, rows: Tensor, layer: int, count: int) -> tuple[Tensor, Tensor]:
        """K and V [count, kv_heads, keys, head_dim] of a layer, in the scratch buffer or widened from it."""
        need = rows.numel() * self._rows.shape[1]
        if self._scratch.numel() < need:
            self._scratch = self._rows.new_empty(need)
        out = self._scratch[:need].view(rows.numel(), -1)
        torch.index_select(self._rows[2 * layer :], 0, rows, out=out)
        k, v = out.view(2, count, self._kv_heads, -1, self._head_dim)
        if self._eight_bits is None:
            return k, v
        scales = self._scales[layer]
        return self._widened(k, scales.k), self._widened(v, scales.v)

    def _widened(self, raw: Tensor, scale: float) -> Tensor:
        assert self._eight_bits is not None
        wide = raw.view(self._eight_bits).to(self._dtype)
        return wide if scale == 1.0 else wide.mul_(scale)

    def _attend_bucket(self, q: Tensor, out: Tensor, layer: int, bucket: _Bucket) -> None:
        """The query heads of one KV head stand in for a length: no key is repeated for them."""
        k, v = self._gather(bucket.rows, layer, bucket.count)
        grouped = q[bucket.tokens].view(bucket.count, self._kv_heads, self._group, self._head_dim)
        found = _attention(grouped, k, v, bucket.mask, self._scale)
        out[bucket.tokens] = found.reshape(bucket.count, self._heads, self._head_dim)

    def _attend_prefill(self, q: Tensor, out: Tensor, layer: int, window: int | None, span: _Prefill) -> None:
        k, v = self._gather(span.rows, layer, 1)
        shape = (self._kv_heads, self._group, k.shape[2], self._head_dim)
        k, v = k[0].unsqueeze(1).expand(shape), v[0].unsqueeze(1).expand(shape)
        first = span.length - span.new
        for begin in range(0, span.new, QUERY_TILE):
            count = min(QUERY_TILE, span.new - begin)
            start = 0 if window is None else max(0, first + begin - window + 1 - span.skipped)
            stop = first + begin + count - span.skipped
            tokens = slice(span.start + begin, span.start + begin + count)
            grouped = q[tokens].view(count, self._kv_heads, self._group, self._head_dim)
            mask = self._mask(window, count, stop - start)
            keys, values = k[:, :, start:stop], v[:, :, start:stop]
            found = _attention(grouped.permute(1, 2, 0, 3), keys, values, mask, self._scale)
            target = out[tokens].view(count, self._kv_heads, self._group, self._head_dim)
            target.copy_(found.permute(2, 0, 1, 3))

    def _mask(self, window: int | None, queries: int, keys: int) -> Tensor:
        """[queries, keys] for the last `queries` of `keys` tokens. It looks the same from the right for any
        number of keys, so one per window is kept, as wide as was ever needed, and cut to size."""
        widest = self._masks.get(window)
        if widest is None or widest.shape[1] < keys:
            width = max(QUERY_TILE, 1 << (keys - 1).bit_length())
            device = self._rows.device
            query = torch.arange(QUERY_TILE, device=device).unsqueeze(1) + (width - QUERY_TILE)
            key = torch.arange(width, device=device)
            hidden = key > query
            if window is not None:
                hidden |= key <= query - window
            widest = torch.zeros(hidden.shape, dtype=self._dtype, device=device)
            widest = self._masks[window] = widest.masked_fill_(hidden, float("-inf"))
        return widest[QUERY_TILE - queries :, widest.shape[1] - keys :]


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if not q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    # The fused CUDA kernels want masks aligned to 16 bytes; ours are views. This is the reference there.
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def bucketed_by_size(sizes: Sequence[int], worth: int) -> Iterator[list[int]]:
    """Split indices 0.. into buckets of like size, in order when one bucket holds all.

    Every member of a bucket is padded to its largest. Going from the largest down, a new bucket begins
    where it saves more padding, over all that are left, than it is `worth`.
    """
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    cuts, largest = [0], sizes[order[0]]
    for place, index in enumerate(order):
        if (largest - sizes[index]) * (len(order) - place) > worth:
            cuts.append(place)
            largest = sizes[index]
    for start, stop in zip(cuts, [*cuts[1:], len(order)], strict=True):
        yield sorted(order[start:stop])
