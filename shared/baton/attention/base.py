"""The attention contract: one step's ragged shape, and who computes attention over the pool.

The pool is one tensor `[page, kv_head, layer, k_or_v, slot, head_dim]` (design: a page is one
contiguous run of memory holding every layer). Page 0 is scratch: padding rows point to it, nothing
reads it back, the allocator never hands it out. A page table row lists a sequence's pages in order.
The pool's numbers have the model's dtype, or are float8_e4m3fn: then what a layer stores was divided by the
layer's scales, rounded to nearest and kept within ±448, and is multiplied by them when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scales:
    """What the numbers of one layer in an eight-bit pool are multiplied by; both are 1 in any other pool."""

    k: float = 1.0
    v: float = 1.0


UNSCALED = Scales()


@dataclass(frozen=True, slots=True)
class HostShape:
    """The numbers of a step that the host knows without asking the device."""

    new: tuple[int, ...]
    """[S] new tokens of each span."""
    lengths: tuple[int, ...]
    """[S] KV length of each sequence, its new tokens included."""


@dataclass(frozen=True, slots=True)
class Spans:
    """One step's ragged batch: S spans of new tokens, N tokens in all, one span a sequence.

    The first `prefills` spans have any number of new tokens; each of the others is one decode token.
    All tensors lie on the engine's device and are written by the runner before the step starts.
    """

    table: Tensor
    """[rows, max_pages] int32: pages of every row."""
    rows: Tensor
    """[S] int32: the page-table row of each span."""
    starts: Tensor
    """[S + 1] int32: first token of each span in the flat batch."""
    lengths: Tensor
    """[S] int32: KV length of each sequence, its new tokens included."""
    positions: Tensor
    """[N] int32: position of each token in its sequence; its K and V go to
    page `table[token_rows[i], positions[i] // page_size]`, slot `positions[i] % page_size`."""
    token_rows: Tensor
    """[N] int32: page-table row of each token."""
    prefills: int
    host: HostShape | None
    """None inside a replayed graph, where only the device knows the lengths."""


@runtime_checkable
class Capturable(Protocol):
    """A backend whose decodes can be captured in CUDA graphs."""

    def graph(self, size: int) -> GraphAttention:
        """Attention for a captured batch of exactly `size` decodes."""
        ...


@runtime_checkable
class CapturableSpans(Protocol):
    """A backend for which also batches of short spans can be captured."""

    def graph_spans(self, size: int) -> SpansAttention | None:
        """Attention for a captured batch of `size` tokens in as many spans or fewer, or None."""
        ...


class GraphAttention(Protocol):
    """As `Attention`, for one captured batch size: `plan` outside the graph, `attend` inside."""

    @property
    def plans(self) -> bool:
        """Whether `plan` must be called, with the host's lengths, before every replay."""
        ...

    def plan(self, spans: Spans) -> None: ...

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor: ...


class SpansAttention(GraphAttention, Protocol):
    """As `GraphAttention`, of spans: what they share is read once."""

    @property
    def lines(self) -> int:
        """Tokens of a span, at most."""
        ...


class Attention(Protocol):
    """Causal attention of new tokens over their sequences' pages; the step's K and V are in the pool."""

    def plan(self, spans: Spans) -> None:
        """Prepare for one step; called once before its first layer, outside any captured graph."""
        ...

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        """q [N, heads, head_dim] → [N, heads * head_dim], contiguous and in `out` if given; softmax scale and
        window as constructed."""
        ...
