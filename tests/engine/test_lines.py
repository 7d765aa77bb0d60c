"""Short prompts that go through the decode graphs, a token a line: the tokens of transformers all the same.

A CPU captures nothing, so the captured step is carried out anew at every replay: layout, slots, goals,
padding and the choice of what goes that way are the real ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.checkpoints import Checkpoint, Make
from tests.engine.inline import Inline
from tests.engine.test_exact import GREEDY, TOKENS, Reference, prompts, reference
from tests.sampling.reference import distribution
from torch import Tensor

from baton.attention.base import HostShape, Spans
from baton.attention.torch import TorchAttention
from baton.core.types import SamplingParams
from baton.engine import runner
from baton.engine.graphs import DecodeGraphs, Held, Lines, ladder, ladder_of_spans
from baton.sampling.fresh import Ints
from baton.sampling.noise import gumbel
from baton.sampling.rows import Need, needs_of

__all__ = ["reference"]


_KINDS: list[dict[str, Any]] = [
    {"temperature": 0.8, "seed": 5},
    {"temperature": 0.9, "seed": 6, "top_p": 0.7, "repetition_penalty": 1.2},
    {"temperature": 1.1, "seed": 7, "top_k": 20, "top_p": 0.9},
    {"temperature": 0.0, "logprobs": 3, "min_tokens": 4, "logit_bias": ((7, 2.0),)},
    {"temperature": 0.0, "logprobs": 2, "prompt_logprobs": 2},
]
ASKED = [SamplingParams(max_tokens=TOKENS, ignore_eos=True, **kind) for kind in _KINDS]
"""Whatever may be asked: draws, penalties, log-probabilities; of the last its prompt's too."""


class Uncaptured(DecodeGraphs):
    """Counts lines of prompts, and those of decodes."""

    prompts = decodes = pieces = 0

    def replay(
        self, lines: Lines, table: tuple[Ints, Ints, Ints], held: Held | None = None, filtered: bool = False
    ) -> tuple[Tensor, Tensor]:
        count = len(lines.rows)
        of_spans = held is not None and self.lines > 1
        size = self._size(count, of_spans)
        pieces = held.pieces(self.lines, size) if held is not None and of_spans else ()
        self.inputs.fill(lines, table, pieces, size)
        slots = int((lines.sources >= len(self.table)).sum())
        self.prompts += slots
        self.decodes += count - slots
        attention = _Pieces(self.attention) if of_spans else _Alone(self.attention, lines, size)
        spans = self._spans(of_spans, size)
        logits, tokens = self._step(spans, attention)
        if filtered:
            self._filter(spans, logits, tokens)
        self.pieces += 0 if isinstance(attention, _Alone) else attention.found
        return logits[:count], tokens[:count]


class _Pieces:
    """Attention of the pieces that the buffers tell of."""

    plans = False
    found = 0

    def __init__(self, attention: Any) -> None:
        self._attention: TorchAttention = attention

    def plan(self, spans: Spans) -> None:
        raise AssertionError("lengths are in the buffers")

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        new = spans.starts.diff()
        there = new > 0
        assert int(new.sum()) == len(q) and int(spans.starts[0]) == 0
        assert bool((spans.lengths[~there] == 0).all()), "whoever has no tokens must cost nothing"
        rows, lengths, new = spans.rows[there], spans.lengths[there], new[there]
        starts = torch.cat([new.new_zeros(1), new.cumsum(0, dtype=torch.int32)])
        host = HostShape(tuple(new.tolist()), tuple(lengths.tolist()))
        known = Spans(spans.table, rows, starts, lengths, spans.positions, spans.token_rows, len(rows), host)
        self.found = int((new > 1).sum())
        self._attention.plan(known)
        return self._attention.attend(q, layer, known, out)


class _Alone:
    """Attention of lines that are each a sequence of one new token."""

    plans = False

    def __init__(self, attention: Any, lines: Lines, size: int) -> None:
        self._attention: TorchAttention = attention
        lengths = np.ones(size, dtype=np.int32)
        lengths[: len(lines.positions)] = lines.positions + 1
        self._host = HostShape((1,) * size, tuple(lengths.tolist()))

    def plan(self, spans: Spans) -> None:
        raise AssertionError("lengths are computed inside")

    def attend(self, q: Tensor, layer: int, spans: Spans, out: Tensor | None = None) -> Tensor:
        known = Spans(
            spans.table, spans.rows, spans.starts, spans.lengths, spans.positions, spans.rows, 0, self._host
        )
        self._attention.plan(known)
        return self._attention.attend(q, layer, known, out)


def draw(logits: Tensor, temperatures: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """As sampling is defined."""
    noise = gumbel(seeds, positions, logits.shape[1])
    wide = logits.double() / temperatures.clamp(min=1e-6)[:, None].double()
    return torch.where(temperatures[:, None] > 0, wide + noise, logits.double()).argmax(-1)


def choose(
    logits: Tensor, lines: Tensor, owners: Tensor, numbers: Tensor, seeds: Tensor, positions: Tensor,
    tokens: Tensor,
) -> None:  # fmt: skip
    """The same of filters, for lines that are any and whose rows have some."""
    noise = gumbel(seeds[owners], positions, logits.shape[1])
    for line in lines[lines >= 0].tolist():
        temperature, top_k, top_p, min_p = numbers[:4, owners[line]].double().tolist()
        asked = SamplingParams(temperature=temperature, top_k=int(top_k), top_p=top_p, min_p=min_p)
        if temperature and needs_of(asked) & Need.FILTER:
            chances = torch.tensor(distribution(logits[line].tolist(), asked), dtype=torch.float64)
            tokens[line] = (chances.log() + noise[line]).argmax()


def with_lines(served: Inline, largest: int = 64, together: int = 1) -> Uncaptured:
    """`together`: lines of a prompt that read together."""
    its = served.built.runner
    its.graphs = Uncaptured(
        its.decoder, its.attention, its.pool, its.table, its.last, its.sampling, ladder(largest), [],
        draw, choose  # type: ignore[arg-type]
    )  # fmt: skip
    its.graphs.lines, its.graphs.span_sizes = together, ladder_of_spans(largest)
    return its.graphs


@pytest.mark.parametrize("together", [1, 3, 8])
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral", "qwen3-moe"])
def test_short_prompts_as_lines_say_what_transformers_says(
    name: str, overlap: bool, together: int, checkpoint: Make, reference: Reference
) -> None:
    made = checkpoint(name)
    want = reference(name, made)
    chunked: dict[str, Any] = {"prefill_budget": 24, "mixed": True, "page_size": 4, "max_model_len": 256}
    for settings in ({"prefill_budget": 60}, chunked):
        with Inline(made.directory, overlap=overlap, **settings) as served:
            graphs = with_lines(served, together=together)
            for _ in range(2):
                assert served.tokens(prompts(), GREEDY) == want
            assert (graphs.pieces > 100) == (together > 1)
            assert graphs.prompts > 300, "cached ones, the ends of long ones, and whole short ones"
            assert graphs.decodes > 300


def test_prompts_alone_and_whatever_is_asked_of_them(checkpoint: Make) -> None:
    """Draws, penalties, log-probabilities, scores: the same with lines as without."""
    made: Checkpoint = checkpoint("qwen3")
    some = [prompt[:20] for prompt in prompts()[: len(ASKED)]]
    answers = []
    for lines in (False, True):
        with Inline(made.directory) as served:
            graphs = with_lines(served) if lines else None
            told = [served.generate([prompt], [one]) for prompt, one in zip(some, ASKED, strict=True)]
            told += [served.generate(some, ASKED)]
            answers.append([[u.token for u in us] for one in told for us in one])
            if graphs is not None:
                assert 0 < graphs.prompts < 2 * sum(map(len, some)), "not the one that is scored"
    assert answers[0] == answers[1]


def test_what_would_read_too_much_goes_the_other_way(
    checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = checkpoint("qwen3")
    with Inline(made.directory, pages=300) as served:
        graphs = with_lines(served)
        page = served.built.runner.pool[0].nbytes
        monkeypatch.setattr(runner, "MOST_READ", page * 210 // 16)
        served.tokens([[5] * 20], GREEDY)
        assert graphs.prompts == 20, "20 lines read 210 tokens"
        served.tokens([[6] * 21], GREEDY)
        assert graphs.prompts == 20, "and 21 read 231"


def test_pieces_of_what_a_step_holds() -> None:
    held = Held(*(np.array(x, np.int32) for x in ([4, 7, 9], [7, 1, 3], [27, 5, 3])))
    rows, lengths, starts = held.pieces(3, 16)
    assert rows[:5].tolist() == [4, 4, 4, 7, 9] and not rows[5:].any()
    assert lengths[:5].tolist() == [23, 26, 27, 5, 3]
    assert lengths[5:].tolist() == [1] * 5 + [0] * 6, "padding lines are pieces of one"
    assert starts.tolist() == [0, 3, 6, 7, 8, *range(11, 16), *[16] * 7]
    assert (len(rows), len(lengths), len(starts)) == (16, 16, 17)


def test_a_full_step_has_no_padding() -> None:
    held = Held(*(np.array(x, np.int32) for x in ([1, 2], [4, 4], [9, 4])))
    rows, lengths, starts = held.pieces(4, 8)
    assert (rows[:2].tolist(), lengths[:3].tolist(), starts[:4].tolist()) == ([1, 2], [9, 4, 0], [0, 4, 8, 8])
