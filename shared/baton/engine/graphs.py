"""Decode steps as CUDA graphs: the whole step, sampling included, replayed with one launch, two with filters.

A ladder of batch sizes is captured from the largest to the smallest over one memory pool. A replay
reads one int32 buffer that the host fills beforehand: a line a token, and the places of the page
table that change. Padding lines use row 0 and position 0, so they write the scratch page and nothing
else. Everything else a step needs (ids, lengths, sampling parameters) lies on the device by row.

A line may as well be a token of a prompt: keys and values are stored before any line attends, and each
attends to what lies before it. A short prompt so costs a step of decodes, not the launch of every kernel.
Where attention knows how, lines of a prompt that follow each other read what lies before them once: for steps
with prompts there are graphs of their own, for fewer sizes, in which every line is of a piece of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from baton.attention.base import Capturable, CapturableSpans, GraphAttention, HostShape, Spans
from baton.kernels.capture import Shared
from baton.model.decoder import Decoder
from baton.sampling.fresh import Ints
from baton.sampling.rows import SamplingRows

Draw = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Plain sampling: (logits, temperatures, seeds, positions) of M lines → M tokens."""
Choose = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""With filters: (logits, lines, owners, numbers, seeds, positions, tokens), as `sampling.filtered.choose`."""
RING = 4
"""Pinned buffers in turn: more than the steps that can be in flight."""


def ladder(largest: int) -> list[int]:
    """Batch sizes to capture, smallest first."""
    sizes = [1, 2, 4, *range(8, 65, 8), *range(80, 257, 16), *range(288, largest + 1, 32)]
    return sorted({size for size in sizes if size < largest} | {largest})


def ladder_of_spans(largest: int) -> list[int]:
    """The same of steps with prompts, which are filled up or few."""
    sizes = [16, 32, 64, *range(96, largest, 32)]
    return sorted({size for size in sizes if size < largest} | {largest})


@dataclass(frozen=True, slots=True)
class Held:
    """Whose the lines of a replay are, in order."""

    rows: Ints
    """[S]."""
    new: Ints
    """[S] lines of each."""
    lengths: Ints
    """[S] tokens of each, the last line's included."""

    def pieces(self, most: int, size: int) -> tuple[Ints, Ints, Ints]:
        """Cut into pieces of at most `most` lines, for a graph of `size`: row and length of each, and where
        the lines of each begin and the last ends. Padding lines are pieces of one; the rest have none."""
        cuts = -(-self.new // most)
        whose = np.repeat(np.arange(len(cuts)), cuts)
        begins = (np.arange(len(whose)) - np.repeat(np.cumsum(cuts) - cuts, cuts)) * most
        counts = np.minimum(most, self.new[whose] - begins)
        rows, lengths = np.zeros((2, size), dtype=np.int32)
        starts = np.full(size + 1, size, dtype=np.int32)
        pieces, lines = len(whose), int(self.new.sum())
        rows[:pieces] = self.rows[whose]
        lengths[:pieces] = (self.lengths - self.new)[whose] + begins + counts
        lengths[pieces : pieces + size - lines] = 1
        starts[0] = 0
        starts[1 : pieces + 1] = np.cumsum(counts)
        starts[pieces : pieces + size - lines + 1] = np.arange(lines, size + 1)
        return rows, lengths, starts


@dataclass(frozen=True, slots=True)
class Captured:
    """One batch size: its graph, the attention that plans for it, and where its results appear."""

    graph: torch.cuda.CUDAGraph
    filters: torch.cuda.CUDAGraph
    """Draws anew, behind it, for rows that have filters."""
    attention: GraphAttention
    spans: Spans
    logits: Tensor
    """[size, vocab]."""
    tokens: Tensor
    """[size] int64: what was drawn; also written to the rows' last tokens."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What the tokens of a replay are, a line each."""

    rows: Ints
    """Of the page table and of the sampling state."""
    positions: Ints
    sources: Ints
    """Where among the last tokens each line's own lies: its row, or a slot behind all rows."""
    goals: Ints
    """The row whose last token is drawn after this line; 0 where none is."""


class Inputs:
    """The device buffer that every replay reads, and the pinned ones it is filled from."""

    FIELDS = 10
    """As `Lines`; row, column, page of one change of the page table a line; and of each piece row, length and
    first line, of which there is one more."""

    def __init__(self, largest: int, device: torch.device) -> None:
        width = largest + 1
        self.buffer = torch.zeros(self.FIELDS, width, dtype=torch.int32, device=device)
        on_gpu = device.type == "cuda"
        self._pinned = [
            torch.zeros(self.FIELDS, width, dtype=torch.int32, pin_memory=on_gpu) for _ in range(RING)
        ]
        self._copied = [torch.cuda.Event() for _ in range(RING)] if on_gpu else []
        self._next = 0

    def fill(self, lines: Lines, table: tuple[Ints, Ints, Ints], pieces: tuple[Ints, ...], size: int) -> None:
        at = self._next = (self._next + 1) % RING
        if self._copied:
            self._copied[at].synchronize()
        host = self._pinned[at].numpy()
        host[:, :size] = 0
        of_lines = (lines.rows, lines.positions, lines.sources, lines.goals)
        for field, values in enumerate((*of_lines, *table, *pieces)):
            host[field, : len(values)] = values
        self.buffer.copy_(self._pinned[at], non_blocking=True)
        if self._copied:
            self._copied[at].record()


class DecodeGraphs:
    def __init__(
        self, decoder: Decoder, attention: Capturable, pool: Tensor, table: Tensor, last: Tensor,
        sampling: SamplingRows, sizes: list[int], span_sizes: list[int],
        draw: Draw, choose: Choose,
    ) -> None:  # fmt: skip
        """`sizes`: batch sizes to capture, smallest first; `span_sizes` the same for steps with prompts,
        where attention knows such. `last`: a token for each row of the table, and as many slots behind them
        as the largest size, for tokens of prompts. `draw` and `choose` are captured
        too, the second by itself."""
        self.decoder = decoder
        self.attention = attention
        self.pool = pool
        self.table = table
        self.last = last
        self.sampling = sampling
        self.sizes, largest = sizes, sizes[-1]
        self.draw = draw
        self.choose = choose
        self.inputs = Inputs(largest, pool.device)
        spans = attention.graph_spans(largest) if isinstance(attention, CapturableSpans) else None
        self.lines = 1 if spans is None else spans.lines
        """Lines of one sequence that read together, at most."""
        self.span_sizes = span_sizes if self.lines > 1 else []
        self._captured: dict[tuple[bool, int], Captured] = {}
        """By whether it is of spans, and size."""
        self._starts = torch.arange(largest + 1, dtype=torch.int32, device=pool.device)

    def capture(self, shared: Shared, progress: Callable[[float], None]) -> None:
        """Capture every size; the largest first, so that the others fit into its memory."""
        wanted = [(False, size) for size in reversed(self.sizes)]
        wanted += [(True, size) for size in reversed(self.span_sizes)]
        with torch.inference_mode():
            for done, one in enumerate(wanted, start=1):
                self._captured[one] = self._capture(*one, shared)
                progress(done / len(wanted))

    def _capture(self, of_spans: bool, size: int, shared: Shared) -> Captured:
        attention = self._attention(of_spans, size)
        spans = self._spans(of_spans, size)
        if attention.plans:
            attention.plan(_with_host(spans, np.zeros(size, dtype=np.int32)))
        for _ in range(2):  # compiles kernels and settles allocations before the capture
            self._filter(spans, *self._step(spans, attention))
        torch.cuda.current_stream().synchronize()
        with shared.capturing() as graph:
            logits, tokens = self._step(spans, attention)
        with shared.capturing() as filters:
            self._filter(spans, logits, tokens)
        return Captured(graph, filters, attention, spans, logits, tokens)

    def _attention(self, of_spans: bool, size: int) -> GraphAttention:
        if not of_spans:
            return self.attention.graph(size)
        assert isinstance(self.attention, CapturableSpans)
        found = self.attention.graph_spans(size)
        assert found is not None and not found.plans
        return found

    def _spans(self, of_spans: bool, size: int) -> Spans:
        """The step's shape over the static buffers. Of decodes the lengths are computed inside the graph."""
        token_rows, positions = self.inputs.buffer[:2, :size]
        if of_spans:
            rows, lengths = self.inputs.buffer[7:9, :size]
            starts = self.inputs.buffer[9, : size + 1]
            return Spans(self.table, rows, starts, lengths, positions, token_rows, size, None)
        lengths = torch.empty(size, dtype=torch.int32, device=self.pool.device)
        return Spans(
            self.table, token_rows, self._starts[: size + 1], lengths, positions, token_rows, 0, None
        )

    def _step(self, spans: Spans, attention: GraphAttention) -> tuple[Tensor, Tensor]:
        rows = spans.token_rows
        _, _, sources, goals, *changes = self.inputs.buffer[:7, : len(rows)]
        self.table.index_put_((changes[0], changes[1]), changes[2])
        after = torch.add(spans.positions, 1, out=None if spans.prefills else spans.lengths)
        ids = self.last.index_select(0, sources)
        hidden = self.decoder.forward(ids, spans, self.pool, attention)
        logits = self.decoder.logits(hidden)
        temperatures = self.sampling.temperature.index_select(0, rows)
        tokens = self.draw(logits, temperatures, self.sampling.seeds.index_select(0, rows), after)
        self.last.index_put_((goals,), tokens.to(torch.int32))
        return logits, tokens

    def _filter(self, spans: Spans, logits: Tensor, tokens: Tensor) -> None:
        """Draw anew for lines that sample and whose rows have filters."""
        rows, sampling = spans.token_rows, self.sampling
        goals = self.inputs.buffer[3, : len(rows)]
        lines = torch.where(goals > 0, self._starts[: len(rows)], -1)
        self.choose(logits, lines, rows, sampling.numbers, sampling.seeds, spans.positions + 1, tokens)
        self.last.index_put_((goals,), tokens.to(torch.int32))

    def fits(self, lines: int) -> bool:
        return 0 < lines <= self.sizes[-1]

    def changes(self, lines: int) -> int:
        """How many changes of the page table a replay takes along."""
        return self._size(lines)

    def _size(self, lines: int, of_spans: bool = False) -> int:
        return next(size for size in (self.span_sizes if of_spans else self.sizes) if size >= lines)

    def replay(
        self, lines: Lines, table: tuple[Ints, Ints, Ints], held: Held | None = None, filtered: bool = False
    ) -> tuple[Tensor, Tensor]:
        """One step: logits [lines, vocab] and tokens [lines], valid until the next replay. `held`: whose
        lines they are, where some have several; `filtered`: whether any of their rows has filters."""
        count = len(lines.rows)
        of_spans = held is not None and self.lines > 1
        size = self._size(count, of_spans)
        pieces = held.pieces(self.lines, size) if held is not None and of_spans else ()
        captured = self._captured[of_spans, size]
        self.inputs.fill(lines, table, pieces, size)
        if captured.attention.plans:
            captured.attention.plan(_with_host(captured.spans, lines.positions))
        captured.graph.replay()
        if filtered:
            captured.filters.replay()
        return captured.logits[:count], captured.tokens[:count]


def _with_host(spans: Spans, positions: Ints) -> Spans:
    """The static step with the host's numbers, for backends that plan on the host."""
    lengths = tuple((positions + 1).tolist())
    return replace(spans, host=HostShape((1,) * len(lengths), lengths))
