"""A runner whose pool remembers token ids instead of keys and values.

It carries out batches as the real runner does: it writes each token's id where its KV would go, reads
a sequence back through its page table, and derives the next token from what it read. A page that is
lost, shared wrongly or reused too soon therefore changes tokens, at the speed of a dictionary. For
tests of scheduling only; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from baton.engine.batch import Batch, Outcome


def next_token(tokens: Sequence[int], vocab: int) -> int:
    """What this runner generates after `tokens`: a function of all of them."""
    digest = blake2b(np.asarray(tokens, dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % vocab


def continuation(prompt: Sequence[int], count: int, vocab: int) -> list[int]:
    """The undisturbed run: `count` tokens after the prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, vocab))
    return tokens[len(prompt) :]


@dataclass(frozen=True, slots=True)
class _Step:
    compute: Callable[[], Outcome]

    def ready(self, within_s: float = 0.0) -> bool:
        return True

    def result(self) -> Outcome:
        return self.compute()


class MirrorRunner:
    def __init__(self, pages: int, page_size: int, rows: int, columns: int, vocab: int) -> None:
        self.pool = np.full((pages, page_size), -1, dtype=np.int64)
        self.page_size = page_size
        self.vocab = vocab
        self.table = np.zeros((rows, columns), dtype=np.int64)
        self.last = np.zeros(rows, dtype=np.int64)
        self.computed = 0
        """Tokens whose KV was computed, in all."""

    def launch(self, batch: Batch) -> _Step:
        outcome = self._run(batch)
        return _Step(lambda: outcome)

    def close(self) -> None: ...

    def _run(self, batch: Batch) -> Outcome:
        for fresh in batch.fresh:
            if fresh.last >= 0:
                self.last[fresh.row] = fresh.last
        rows, columns, pages = batch.table
        self.table[rows, columns] = pages
        sampled: list[int] = []
        at = 0
        spans = zip(batch.span_rows, batch.span_starts, batch.span_tokens, batch.span_samples, strict=True)
        for row, start, count, samples in spans:
            self._write(int(row), int(start), batch.ids[at : at + count].tolist())
            if samples:
                sampled.append(self._next(int(row), int(start + count)))
            at += count
        for row, position in zip(batch.decode_rows, batch.decode_positions, strict=True):
            self._write(int(row), int(position), [int(self.last[row])])
        for row, position in zip(batch.decode_rows, batch.decode_positions, strict=True):
            sampled.append(self._next(int(row), int(position + 1)))
        return Outcome(np.asarray(sampled, dtype=np.int64))

    def _write(self, row: int, start: int, ids: list[int]) -> None:
        for position, id in enumerate(ids, start=start):
            page = self.table[row, position // self.page_size]
            assert page > 0, f"row {row} writes position {position} into the scratch page"
            self.pool[page, position % self.page_size] = id
        self.computed += len(ids)

    def _next(self, row: int, length: int) -> int:
        pages = self.table[row, : -(-length // self.page_size)]
        token = next_token(self.pool[pages].reshape(-1)[:length].tolist(), self.vocab)
        self.last[row] = token
        return token
