"""Prefills with few launches: the model between its layers' attention as CUDA graphs, attention itself not.

Launching the kernels of a layer one by one takes the host about a millisecond, more than a GPU needs for a
few hundred tokens. Of a step with prompts only attention depends on lengths, and its plan is made from
them on the host. Everything else depends on the number of tokens alone: so the stretch before the first
layer's attention, those between two and the one behind the last are captured for a ladder of counts, and
a step is padded to the next. Padding tokens have row 0 and position 0, so they write the scratch page and
nothing else; attention never sees them.

The runner calls `forward` where it would call the decoder's, for steps that fit. What fits depends on the
batch alone, for the ranks of a split model must all go the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from baton.attention.base import Attention, Spans
from baton.kernels.capture import Shared
from baton.model.decoder import Decoder


def counts(largest: int, usual: int = 0) -> list[int]:
    """Numbers of tokens to capture, smallest first. `usual`: what mixed steps are filled up to.

    Beyond 256 a step computes at most a quarter too much and some 6 % on average, part of which products in
    tiles of 128 rows would compute anyway; with fewer tokens products read weights, and cost the same.
    A count is one capture a layer and one more. The small ones serve what decode graphs do not take.
    """
    found = [*range(64, 513, 64), *range(640, 2049, 128)]
    found += range(2560, largest + 1, 512)
    found += [usual] if usual else []
    return sorted({count for count in found if count < largest} | {largest})


class Stretches:
    """Static buffers hold what goes into a stretch and what comes out of it. All counts share them, and all
    graphs the memory for what lies in between: one runs at a time."""

    def __init__(
        self, decoder: Decoder, attention: Attention, pool: Tensor, table: Tensor, sizes: list[int]
    ) -> None:
        """`table` [rows, max_pages] is read on the device at each step; `sizes`: the numbers of tokens to
        capture, smallest first."""
        self.decoder = decoder
        self.attention = attention
        self.pool = pool
        self.table = table
        self.sizes, largest = sizes, sizes[-1]
        config, dtype, device = decoder.config, decoder.norm.dtype, pool.device
        heads = config.heads // decoder.layers[0].attention.ranks.size
        self._inputs = torch.zeros(3, largest, dtype=torch.int32, device=device)
        """Ids, positions and rows of the page table."""
        self._queries = torch.zeros(largest, heads, config.head_dim, dtype=dtype, device=device)
        self._attended = torch.zeros(largest, heads * config.head_dim, dtype=dtype, device=device)
        self._residual = torch.zeros(largest, config.hidden_size, dtype=dtype, device=device)
        """Hidden states behind the last stretch."""
        self._graphs: dict[int, list[torch.cuda.CUDAGraph]] = {}
        """By number of tokens: before each layer's attention, and behind the last."""

    def capture(self, shared: Shared, progress: Callable[[float], None]) -> None:
        """Capture every size; the largest first, so that the others fit into its memory."""
        stretches = range(len(self.decoder.layers) + 1)
        with torch.inference_mode():
            for done, size in enumerate(reversed(self.sizes), start=1):
                for number in stretches:  # compiles kernels and chooses products before the capture
                    self._run(size, number)
                self._graphs[size] = [self._captured(shared, size, number) for number in stretches]
                progress(done / len(self.sizes))

    def _captured(self, shared: Shared, size: int, number: int) -> torch.cuda.CUDAGraph:
        with shared.capturing() as graph:
            self._run(size, number)
        return graph

    def fits(self, tokens: int) -> bool:
        return 0 < tokens <= self.sizes[-1]

    def forward(self, ids: Tensor, spans: Spans, wanted: Tensor | None = None) -> Tensor:
        """As `Decoder.forward`, attention's plan included; the result is valid until the next step."""
        count, last = len(ids), len(self.decoder.layers) - 1
        size = self._size(count)
        self._fill(ids, spans, size)
        queries = self._queries[:count]
        self._replay(size, 0)
        self.attention.plan(spans)  # by the host, while the device computes
        for layer in range(last):
            self.attention.attend(queries, layer, spans, self._attended[:count])
            self._replay(size, layer + 1)
        return self._end(self.attention.attend(queries, last, spans), wanted)

    def _end(self, attended: Tensor, wanted: Tensor | None) -> Tensor:
        """Behind the last attention: the lines wanted alone, as a step of fewer tokens."""
        if wanted is None:
            count = len(attended)
        elif not (count := len(wanted)):
            return self._residual[:0]
        else:
            attended = attended.index_select(0, wanted)
            self._residual[:count] = self._residual.index_select(0, wanted)
        size = self._size(count)
        self._attended[:count].copy_(attended)
        self._attended[count:size].zero_()
        self._replay(size, len(self.decoder.layers))
        return self._residual[:count]

    def _size(self, tokens: int) -> int:
        return next(size for size in self.sizes if size >= tokens)

    def _fill(self, ids: Tensor, spans: Spans, size: int) -> None:
        count = len(ids)
        for held, values in zip(self._inputs, (ids, spans.positions, spans.token_rows), strict=True):
            held[:count] = values
        if count < size:
            self._inputs[:, count:size].zero_()
            self._attended[count:size].zero_()  # what padding computes depends on no step before

    def _replay(self, size: int, number: int) -> None:
        self._graphs[size][number].replay()

    def _run(self, size: int, number: int) -> None:
        """The stretch before layer `number`, or behind the last: from the buffers into the buffers."""
        decoder = self.decoder
        ids, positions, token_rows = self._inputs[:, :size]
        spans = _of_tokens(self.table, positions, token_rows)
        attended, residual = self._attended[:size], self._residual[:size]
        if number == len(decoder.layers):
            residual.copy_(decoder.end(attended, residual))
            return
        queries = self._queries[:size]
        if number == 0:
            _, left = decoder.begin(ids, spans, self.pool, queries)
        else:
            _, left = decoder.between(number - 1, attended, residual, spans, self.pool, queries)
        if left.data_ptr() != residual.data_ptr():  # kernels may have added to it in place
            residual.copy_(left)


def _of_tokens(table: Tensor, positions: Tensor, token_rows: Tensor) -> Spans:
    """What storing keys and values asks about a step; there is nothing to attend by."""
    none = positions[:0]
    return Spans(table, none, none, none, positions, token_rows, 0, None)
