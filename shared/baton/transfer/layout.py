"""What a rank's KV pool looks like, and which piece of it goes to which rank of another pod.

Pure: numbers in, numbers out; no memory, no NIXL, no torch. The agent turns the answers into
descriptors, the engines of both pods compute `rank_pairs` from the same layouts and agree without
talking. A pool is one tensor `[page, kv_head, layer, k_or_v, slot, head_dim]`, so a page is one run
of bytes and so is any range of its KV heads. Page 0 is scratch: never handed out, free to be
overwritten by anybody at any time (the path between two pods is measured on it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from baton.core.errors import ProtocolMismatch

SCRATCH_PAGE = 0

_VERSION = "page,kv_head,layer,k_or_v,slot,head_dim/1"
"""Axes of the pool in memory; part of the fingerprint, so two orders never exchange a page."""

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}

Indices = NDArray[np.int32]
Rows = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLayout:
    """One rank's pool. Travels to peers, so whatever is wrong in it is `ProtocolMismatch`."""

    pages: int
    """The scratch page included."""
    layers: int
    page_size: int
    """Tokens a page holds."""
    head_dim: int
    dtype: str
    """torch's name of it, without the module."""
    kv_heads: int
    """KV heads of this rank."""
    first_kv_head: int = 0
    """The model's number of this rank's first KV head."""
    total_kv_heads: int
    """KV heads of the model."""
    model: str
    """Fingerprint of the weights and whatever else changes what a token's K and V are."""

    def __post_init__(self) -> None:
        for name in ("pages", "layers", "page_size", "head_dim", "kv_heads", "total_kv_heads"):
            if getattr(self, name) < 1:
                raise ProtocolMismatch(f"a pool layout with {name} = {getattr(self, name)}")
        if self.dtype not in _ITEM_BYTES:
            raise ProtocolMismatch(f"dtype {self.dtype!r} is none of {', '.join(sorted(_ITEM_BYTES))}")
        if not 0 <= self.first_kv_head <= self.total_kv_heads - self.kv_heads:
            raise ProtocolMismatch(
                f"KV heads {self.first_kv_head} to {self.first_kv_head + self.kv_heads - 1} "
                f"of a model with {self.total_kv_heads}"
            )

    @property
    def head_bytes(self) -> int:
        """Bytes of one KV head of one page: one run in memory."""
        return self.layers * 2 * self.page_size * self.head_dim * _ITEM_BYTES[self.dtype]

    @property
    def page_bytes(self) -> int:
        return self.kv_heads * self.head_bytes

    @property
    def bytes(self) -> int:
        return self.pages * self.page_bytes

    def fingerprint(self) -> str:
        """Equal for pools that may exchange pages: everything but the pages and the rank's heads."""
        facts = (
            _VERSION,
            self.total_kv_heads,
            self.layers,
            self.page_size,
            self.head_dim,
            self.dtype,
            self.model,
        )
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]

    def __str__(self) -> str:
        heads = f"{self.first_kv_head}+{self.kv_heads}/{self.total_kv_heads}"
        return f"{self.pages} pages of {self.page_bytes} bytes, heads {heads}, {self.dtype}"


@dataclass(frozen=True, slots=True)
class Span:
    """A run of KV heads inside a page, counted from the first head of each side's own page."""

    source_head: int
    destination_head: int
    heads: int


@dataclass(frozen=True, slots=True)
class RankPair:
    """One rank of the source pod and one of the destination, and the heads that go between them."""

    source: int
    destination: int
    span: Span


def shard_heads(total: int, ranks: int, rank: int) -> tuple[int, int]:
    """First KV head and how many, for one rank; with more ranks than heads several ranks share one."""
    if total % ranks == 0:
        share = total // ranks
        return rank * share, share
    if ranks % total == 0:
        return rank // (ranks // total), 1
    raise ProtocolMismatch(f"{total} KV heads over {ranks} ranks: one must divide the other")


def rank_pairs(sources: Sequence[PoolLayout], destinations: Sequence[PoolLayout]) -> tuple[RankPair, ...]:
    """Who sends which heads to whom, so that every head of every destination rank comes from one source.

    Where several source ranks hold a head, the destinations that need it are spread over them. The
    order is by destination, then by its heads.
    """
    if not sources or not destinations:
        raise ProtocolMismatch("a pod without ranks")
    wanted = {layout.fingerprint() for layout in (*sources, *destinations)}
    if len(wanted) > 1:
        raise ProtocolMismatch(f"pools that cannot exchange pages: {sources[0]} and {destinations[0]}")
    return tuple(
        pair
        for rank, layout in enumerate(destinations)
        for pair in _pairs_of(sources, destinations, rank, layout)
    )


def _pairs_of(
    sources: Sequence[PoolLayout], destinations: Sequence[PoolLayout], rank: int, layout: PoolLayout
) -> list[RankPair]:
    pairs: list[RankPair] = []
    for offset in range(layout.kv_heads):
        head = layout.first_kv_head + offset
        holders = _holders(sources, head)
        if not holders:
            raise ProtocolMismatch(f"no rank of the source holds KV head {head}")
        sharers = _holders(destinations, head)
        source = holders[sharers.index(rank) * len(holders) // len(sharers)]
        source_head = head - sources[source].first_kv_head
        if pairs and pairs[-1].source == source:
            last = pairs[-1].span
            pairs[-1] = RankPair(source, rank, Span(last.source_head, last.destination_head, last.heads + 1))
        else:
            pairs.append(RankPair(source, rank, Span(source_head, offset, 1)))
    return pairs


def _holders(layouts: Sequence[PoolLayout], head: int) -> list[int]:
    return [
        rank
        for rank, layout in enumerate(layouts)
        if layout.first_kv_head <= head < layout.first_kv_head + layout.kv_heads
    ]


def extents(layout: PoolLayout, head: int, heads: int, pages: Sequence[int]) -> NDArray[np.int64]:
    """[pages, 2]: offset from the pool's start and length of these heads of each page."""
    if not 0 <= head <= layout.kv_heads - heads:
        raise ProtocolMismatch(f"heads {head} to {head + heads - 1} of a rank with {layout.kv_heads}")
    index = np.asarray(pages, dtype=np.int64)
    if index.size and not 0 <= index.min() <= index.max() < layout.pages:
        raise ProtocolMismatch(f"pages {index.min()} to {index.max()} of a pool with {layout.pages}")
    out = np.empty((index.size, 2), dtype=np.int64)
    out[:, 0] = index * layout.page_bytes + head * layout.head_bytes
    out[:, 1] = heads * layout.head_bytes
    return out


def strided(layout: PoolLayout, address: int, device: int, head: int, heads: int) -> Rows:
    """One row that describes these heads of every page: address, length, device, stride, count.

    Entry `p` of a list prepared from it is what `extents` says of page `p`.
    """
    ((offset, length),) = extents(layout, head, heads, [0])
    row = (address + offset, length, device, layout.page_bytes, layout.pages)
    return np.array([row], dtype=np.uint64)


def in_runs(local: Sequence[int], remote: Sequence[int]) -> tuple[Indices, Indices]:
    """The same page pairs, ordered so that neighbours in both pools follow each other.

    NIXL merges descriptors that follow each other in both memories; it looks at nothing but the next.
    """
    here, there = np.asarray(local, dtype=np.int32), np.asarray(remote, dtype=np.int32)
    if here.shape != there.shape or here.ndim != 1:
        raise ProtocolMismatch(f"{here.size} local pages and {there.size} remote ones")
    order = np.argsort(here, kind="stable")
    return here[order], there[order]


def cut(
    local: Indices, remote: Indices, *, whole: bool, page_bytes: int, descriptors: int, part_bytes: int
) -> list[slice]:
    """Cut page pairs into parts of at most so many descriptors and bytes, each posted as one transfer.

    `whole` says that neighbouring pages make one descriptor, because both sides move whole pages.
    A part has at least one page.
    """
    starts = np.ones(local.size, dtype=bool)
    if whole and local.size > 1:
        starts[1:] = (np.diff(local) != 1) | (np.diff(remote) != 1)
    most = max(1, part_bytes // page_bytes)
    parts: list[slice] = []
    begin = used = 0
    for at, new in enumerate(starts.tolist()):
        full = at - begin == most or (new and used == descriptors)
        if full:
            parts.append(slice(begin, at))
            begin, used = at, 0
        if new or full:
            used += 1
    if local.size > begin:
        parts.append(slice(begin, local.size))
    return parts
