"""Steps built by hand: spans over scattered pages, and a decoder run over them without an engine.

For tests and measurements of models, kernels and attention backends; the engine's runner builds its
spans itself. Pages are dealt out in a shuffled order, so that nothing works by being contiguous.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from baton.attention.base import Attention, HostShape, Spans
from baton.attention.torch import TorchAttention
from baton.model.config import ModelConfig
from baton.model.decoder import Decoder


def spans_of(
    tables: Sequence[Sequence[int]],
    parts: Sequence[tuple[int, int, int]],
    *,
    prefills: int | None = None,
    device: torch.device | str = "cpu",
) -> Spans:
    """The spans of one step. `tables` has the pages of each row; a part is (row, position of its first new
    token, number of new tokens). All parts up to the last with more than one new token count as prefills
    unless `prefills` says otherwise."""
    if prefills is None:
        prefills = max((place + 1 for place, part in enumerate(parts) if part[2] != 1), default=0)
    if any(new != 1 for _, _, new in parts[prefills:]):
        raise ValueError("every span after the prefills has one new token")

    def ints(values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    width = max(len(pages) for pages in tables)
    new = [count for _, _, count in parts]
    lengths = [first + count for _, first, count in parts]
    return Spans(
        table=ints([[*pages, *[0] * (width - len(pages))] for pages in tables]),
        rows=ints([row for row, _, _ in parts]),
        starts=ints([sum(new[:place]) for place in range(len(new) + 1)]),
        lengths=ints(lengths),
        positions=ints([first + place for _, first, count in parts for place in range(count)]),
        token_rows=ints([row for row, _, count in parts for _ in range(count)]),
        prefills=prefills,
        host=HostShape(tuple(new), tuple(lengths)),
    )


def deal_pages(lengths: Sequence[int], page_size: int, seed: int = 0) -> list[list[int]]:
    """Pages for sequences of these lengths, shuffled; page 0 is left out."""
    counts = [-(-length // page_size) for length in lengths]
    pages = list(range(1, sum(counts) + 1))
    random.Random(seed).shuffle(pages)
    return [[pages.pop() for _ in range(count)] for count in counts]


def new_pool(
    config: ModelConfig, pages: int, page_size: int, dtype: torch.dtype, device: torch.device, ranks: int = 1
) -> Tensor:
    """A zeroed pool of one rank, page 0 included."""
    kv_heads = len(config.kv_heads_of(0, ranks))
    shape = (pages, kv_heads, config.layers, 2, page_size, config.head_dim)
    return torch.zeros(shape, dtype=dtype, device=device)


class PagedSequences:
    """Some sequences of one decoder, advanced by hand."""

    def __init__(
        self,
        decoder: Decoder,
        lengths: Sequence[int],
        page_size: int,
        *,
        ranks: int = 1,
        attention: Callable[..., Attention] = TorchAttention,
        seed: int = 0,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        """`lengths` are the most tokens that each sequence will have. `attention` is called as
        TorchAttention is: (pool, heads, scale, windows, dtype=, scales=). `kv_dtype` is the pool's, None if
        it is the model's."""
        config, weight = decoder.config, decoder.embedding.weight
        self.decoder = decoder
        self.tables = deal_pages(lengths, page_size, seed)
        pages = 1 + sum(len(table) for table in self.tables)
        self.pool = new_pool(config, pages, page_size, kv_dtype or weight.dtype, weight.device, ranks)
        self.attention = attention(
            self.pool, config.heads // ranks, config.scale, config.windows, dtype=weight.dtype,
            scales=[layer.attention.scales for layer in decoder.layers],
        )  # fmt: skip
        self.lengths = [0] * len(lengths)

    def step(self, parts: Sequence[tuple[int, Sequence[int]]], *, prefills: int | None = None) -> Tensor:
        """Advance sequences by new tokens, as one batch of (sequence, tokens): the logits after each."""
        device = self.pool.device
        spans = spans_of(
            self.tables,
            [(row, self.lengths[row], len(tokens)) for row, tokens in parts],
            prefills=prefills,
            device=device,
        )
        ids = torch.tensor([token for _, tokens in parts for token in tokens], device=device)
        for row, tokens in parts:
            self.lengths[row] += len(tokens)
        self.attention.plan(spans)
        return self.decoder.logits(self.decoder.forward(ids, spans, self.pool, self.attention))
