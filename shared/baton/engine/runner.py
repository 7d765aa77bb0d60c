"""Carries out batches on one rank: the only owner of the model's device state.

It keeps the pool, the page table, each row's last token and the sampling rows, and applies batches
in the order they come. It decides nothing. Sampled tokens stay on the device as the next step's
input; the host's copy travels behind an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from baton.attention.base import Attention, Capturable, HostShape, Spans
from baton.core.types import TokenLogprob
from baton.engine.batch import Batch, Outcome, flatten
from baton.engine.flight import Flight
from baton.engine.graphs import DecodeGraphs, Held, Lines, ladder, ladder_of_spans
from baton.engine.stretches import Stretches, counts
from baton.engine.upload import Upload
from baton.kernels.capture import sharing
from baton.model.decoder import Decoder
from baton.sampling.fresh import Ints
from baton.sampling.places import Places
from baton.sampling.rows import Need, SamplingRows
from baton.sampling.sampler import Picked, Sampler, entries, score

NO_CHANGES = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32))
MOST_READ = 32 << 30
"""Bytes of keys and values that the tokens of prompts in a graph read together, each piece anew: some 8 ms of
a GPU's memory, where launching the kernels of a step one by one takes the host 30."""
SCORED = 128
"""Tokens of a prompt that are scored together: each has a line of logits, some of a MB, three times over."""
DRAWN = Need.NOISE | Need.FILTER
"""What graphs do by themselves."""
LOOK_S = 0.00003
"""Between two looks at an event that is waited for."""

Scored = tuple[list[Picked], int]
"""A span's scores, piece by piece, and how many alternatives are wanted with each."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A batch laid out flat: what the model, the attention and the sampler take."""

    ids: Tensor
    spans: Spans
    places: Places
    sampled: Tensor
    """Lines of the flat batch after which a token is sampled."""


class Runner:
    def __init__(
        self, decoder: Decoder, attention: Attention, pool: Tensor, *, max_running: int, max_model_len: int,
        graph_max_batch: int = 0, graph_max_tokens: int = 0, usual_tokens: int = 0,
        progress: Callable[[float], None] | None = None, only_largest: bool = False,
    ) -> None:  # fmt: skip
        """`usual_tokens`: what mixed steps are filled up to, if more than graphs take. `only_largest`: of the
        graphs, to see what they take."""
        self.decoder = decoder
        self.attention = attention
        self.pool = pool
        self.device = pool.device
        self.page_size = pool.shape[4]
        rows = max_running + 1
        columns = -(-max_model_len // self.page_size) + 1
        self.table = torch.zeros(rows, columns, dtype=torch.int32, device=self.device)
        self.sampling = SamplingRows(rows, decoder.config.vocab_size, self.device)
        self.sampler = Sampler(self.sampling)
        self.upload = Upload(self.device, capacity=1 << 16)
        largest = min(graph_max_batch, max_running)
        self.rows = rows
        self.last = torch.zeros(rows + largest, dtype=torch.int32, device=self.device)
        """Each row's last token; behind them slots for tokens of prompts in a graph."""
        self.graphs = self._decode_graphs(largest, only_largest)
        self.stretches = self._stretches(graph_max_tokens, usual_tokens, only_largest)
        self._capture(progress or (lambda done: None))
        self.sampler.warm(decoder.norm.dtype)
        self._thread = _step_thread() if self.device.type == "cpu" else None

    def _decode_graphs(self, largest: int, only_largest: bool) -> DecodeGraphs | None:
        if self.device.type != "cuda" or largest == 0 or not isinstance(self.attention, Capturable):
            return None
        from baton.sampling.filtered import choose
        from baton.sampling.fused import sample

        return DecodeGraphs(
            self.decoder, self.attention, self.pool, self.table, self.last, self.sampling,
            [largest] if only_largest else ladder(largest),
            [largest] if only_largest else ladder_of_spans(largest), sample, choose,
        )  # fmt: skip

    def _stretches(self, largest: int, usual: int, only_largest: bool) -> Stretches | None:
        if self.device.type != "cuda" or largest == 0:
            return None
        sizes = [largest] if only_largest else counts(largest, usual)
        return Stretches(self.decoder, self.attention, self.pool, self.table, sizes)

    def _capture(self, progress: Callable[[float], None]) -> None:
        """One memory for all graphs: what is read of a step's results is asked for before the next step."""
        found = [one for one in (self.stretches, self.graphs) if one is not None]
        if not found:
            return
        with sharing() as shared:
            for at, one in enumerate(found):

                def tell(done: float, before: int = at) -> None:
                    progress((before + done) / len(found))

                one.capture(shared, tell)

    def launch(self, batch: Batch) -> Flight:
        """Start a step; on a CPU it runs in a thread of its own, on a GPU on the current stream."""
        if self._thread is not None:
            return _Threaded(self._thread.submit(self._run_here, batch))
        return self._run(batch)

    def _run_here(self, batch: Batch) -> Outcome:
        return self._run(batch).result()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    @torch.inference_mode()
    def _run(self, batch: Batch) -> _Awaited:
        graphs = self.graphs
        if graphs is not None and graphs.fits(batch.tokens) and self._brief(batch, graphs.lines):
            if len(batch.span_rows):
                return self._replay_spans(batch, graphs)
            return self._replay(batch, graphs)
        self._apply(batch)
        shape = self._lay_out(batch)
        scored = any(following is not None for following in batch.following)
        hidden = self._forward(shape.ids, shape.spans, None if scored else shape.sampled)
        scores = self._score_spans(batch, hidden)
        if not len(shape.places.host_rows):
            return _settled(Picked(torch.empty(0, dtype=torch.int64, device=self.device)), [], scores)
        logits = self.decoder.logits(hidden[shape.sampled] if scored else hidden)
        picked = self.sampler.sample(logits, shape.places, batch.masks)
        self.last[shape.places.rows] = picked.tokens.to(torch.int32)
        return _settled(picked, self._tops(shape.places.host_rows), scores)

    def _forward(self, ids: Tensor, spans: Spans, wanted: Tensor | None) -> Tensor:
        """Hidden states of the lines `wanted`; None: of all."""
        if self.stretches is not None and self.stretches.fits(len(ids)):
            return self.stretches.forward(ids, spans, wanted)
        self.attention.plan(spans)
        return self.decoder.forward(ids, spans, self.pool, self.attention, wanted)

    def _replay(self, batch: Batch, graphs: DecodeGraphs) -> _Awaited:
        """A step of decodes alone, as one graph; what changes logits or asks of them is done after it."""
        self._seat(batch)
        host_rows = batch.decode_rows
        lines = Lines(host_rows, batch.decode_positions, host_rows, host_rows)
        need = self.sampling.every(host_rows)
        logits, tokens = graphs.replay(lines, self._changes(batch, graphs), filtered=bool(need & Need.FILTER))
        if batch.masks is None and need in DRAWN:
            return _settled(Picked(tokens), [], [])
        at = batch.decode_positions + 1
        rows, positions = self.upload([host_rows, at])
        picked = self.sampler.sample(logits, Places(rows, positions, host_rows, at), batch.masks, tokens)
        self.last[rows] = picked.tokens.to(torch.int32)
        return _settled(picked, self._tops(host_rows), [])

    def _brief(self, batch: Batch, together: int) -> bool:
        """Whether its prompts may go a token a line: so many lines read all that lies before them anew."""
        if not len(batch.span_rows):
            return True
        if any(following is not None for following in batch.following):
            return False
        new = batch.span_tokens.astype(np.int64)
        read = int((new * (batch.span_starts + (new + 1) / 2)).sum())
        return read * self.pool[0].nbytes // self.page_size <= MOST_READ * together

    def _replay_spans(self, batch: Batch, graphs: DecodeGraphs) -> _Awaited:
        """A step with short prompts, as one graph: each of their tokens is a line like a decode's."""
        self._seat(batch)
        flat, count = flatten(batch), len(batch.ids)
        slots = np.arange(self.rows, self.rows + count, dtype=np.int32)
        goals = np.zeros(batch.tokens, dtype=np.int32)
        goals[flat.lines] = flat.sampled_rows
        lines = Lines(flat.token_rows, flat.positions, np.concatenate([slots, batch.decode_rows]), goals)
        ids, at, rows, positions = self.upload([batch.ids, flat.lines, flat.sampled_rows, flat.sampled_at])
        self.last[self.rows : self.rows + count] = ids
        held = Held(flat.rows, flat.new, flat.lengths)
        need = self.sampling.every(flat.sampled_rows)
        changes, filtered = self._changes(batch, graphs), bool(need & Need.FILTER)
        logits, tokens = graphs.replay(lines, changes, held, filtered)
        if not len(flat.lines):
            return _settled(Picked(tokens[:0]), [], [])
        if batch.masks is None and need in DRAWN:
            return _settled(Picked(tokens[at]), [], [])
        places = Places(rows, positions, flat.sampled_rows, flat.sampled_at)
        picked = self.sampler.sample(logits[at], places, batch.masks, tokens[at])
        self.last[rows] = picked.tokens.to(torch.int32)
        return _settled(picked, self._tops(flat.sampled_rows), [])

    def _changes(self, batch: Batch, graphs: DecodeGraphs) -> tuple[Ints, Ints, Ints]:
        """Of the page table, as far as the graph takes them along."""
        if len(batch.table[0]) <= graphs.changes(batch.tokens):
            return batch.table
        self._turn(batch.table)  # whole prompts have arrived
        return NO_CHANGES

    # ---- before the model ----

    def _seat(self, batch: Batch) -> None:
        """Rows newly taken: their sampling state and last tokens."""
        self.sampling.take(batch.fresh)
        carried = [one for one in batch.fresh if one.last >= 0]
        if carried:
            rows, last = self.upload([_ints([o.row for o in carried]), _ints([o.last for o in carried])])
            self.last[rows] = last

    def _apply(self, batch: Batch) -> None:
        """Write the batch's changes of tables and rows."""
        self._seat(batch)
        if len(batch.table[0]):
            self._turn(batch.table)

    def _turn(self, changes: tuple[Ints, Ints, Ints]) -> None:
        rows, columns, pages = self.upload(changes)
        self.table[rows, columns] = pages

    def _lay_out(self, batch: Batch) -> Shape:
        flat = flatten(batch)
        d = self.upload(
            [
                flat.rows,
                flat.starts,
                flat.lengths,
                flat.positions,
                flat.token_rows,
                flat.lines,
                flat.sampled_rows,
                flat.sampled_at,
                batch.ids,
            ]
        )
        host = HostShape(tuple(flat.new.tolist()), tuple(flat.lengths.tolist()))
        spans = Spans(
            table=self.table, rows=d[0], starts=d[1], lengths=d[2], positions=d[3], token_rows=d[4],
            prefills=len(batch.span_rows), host=host,
        )  # fmt: skip
        ids = d[8]
        if len(batch.decode_rows):
            ids = torch.cat([ids, self.last[d[0][len(batch.span_rows) :]]])
        return Shape(ids, spans, Places(d[6], d[7], flat.sampled_rows, flat.sampled_at), d[5])

    # ---- after the model ----

    def _tops(self, rows: Ints) -> list[int | None]:
        if Need.LOGPROBS not in self.sampling.every(rows):
            return []
        return [self.sampling.of(row).sampling.logprobs for row in rows.tolist()]

    def _score_spans(self, batch: Batch, hidden: Tensor) -> list[Scored]:
        """Log-probabilities of prompt tokens, for spans that want them: line i scores token i + 1."""
        found: list[Scored] = []
        at = 0
        for row, count, following in zip(batch.span_rows, batch.span_tokens, batch.following, strict=True):
            if following is not None:
                top = self.sampling.of(int(row)).sampling.prompt_logprobs or 0
                targets = torch.from_numpy(following.astype(np.int64)).to(self.device)
                lines = hidden[at : at + len(following)].split(SCORED)
                pieces = zip(lines, targets.split(SCORED), strict=True)
                found.append(([score(self.decoder.logits(some), ids) for some, ids in pieces], top))
            at += int(count)
        return found


def _ints(values: list[int]) -> Ints:
    return np.asarray(values, dtype=np.int32)


def _step_thread() -> ThreadPoolExecutor:
    """OpenMP keeps its number of threads for each calling thread, and oneDNN asks OpenMP, not torch."""
    return ThreadPoolExecutor(1, "step", torch.set_num_threads, (torch.get_num_threads(),))


def _settled(picked: Picked, tops: list[int | None], scores: list[Scored]) -> _Awaited:
    """Start copying a step's tokens to the host."""
    tokens = picked.tokens
    event: torch.cuda.Event | None = None
    if tokens.device.type == "cuda":
        tokens = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        tokens.copy_(picked.tokens, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
    return _Awaited(event, tokens, picked, tops, scores)


def _present(found: tuple[TokenLogprob | None, ...]) -> tuple[TokenLogprob, ...]:
    return tuple(one for one in found if one is not None)


@dataclass(frozen=True, slots=True)
class _Threaded:
    future: Future[Outcome]

    def ready(self, within_s: float = 0.0) -> bool:
        return self.future.done() or bool(wait((self.future,), within_s).done)

    def result(self) -> Outcome:
        return self.future.result()


@dataclass(frozen=True, slots=True)
class _Awaited:
    event: torch.cuda.Event | None
    """Recorded after everything else; None when all of it has run already."""
    tokens: Tensor
    """On the host, once the event has come."""
    picked: Picked
    tops: list[int | None]
    scores: list[Scored]

    def ready(self, within_s: float = 0.0) -> bool:
        event = self.event
        if event is None or event.query():
            return True
        end = time.perf_counter() + within_s
        while time.perf_counter() < end:
            time.sleep(LOOK_S)
            if event.query():
                return True
        return False

    def result(self) -> Outcome:
        if self.event is not None:
            self.event.synchronize()
        logprobs = entries(self.picked, self.tops) if self.picked.logprobs is not None else None
        scored = tuple(
            tuple(one for part in parts for one in _present(entries(part, [top] * len(part.tokens))))
            for parts, top in self.scores
        )
        return Outcome(self.tokens.numpy(), logprobs, scored)
