"""Masks that take long, computed beside the steps: nobody without a form waits, and answers are the same."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loadtest.shapes import tokenizer as shapes
from tests.engine.inline import Careless, Inline
from tests.engine.test_grammar import PROMPTS, SETTINGS, TOKENIZER, asked, check, text, tokens
from tests.spawned import eventually

from baton.core.types import Request, SamplingParams
from baton.engine import LLM
from baton.engine.loop import Engine
from baton.grammar import forms, lanes, matcher
from baton.grammar.matcher import Grammars
from baton.protocol.engine import Update
from baton.tiny import model_path

WORD = forms.regex("[a-z]{60}")
HELD = SamplingParams(temperature=0.0, max_tokens=40, grammar=WORD)
FREE = SamplingParams(temperature=0.0, max_tokens=100, ignore_eos=True)


class Gated(Grammars):
    """Two lanes that compute nothing before the gate is open, or only the second one."""

    def __init__(self, gate: threading.Event, closed: str = "mask-") -> None:
        super().__init__(lambda: TOKENIZER, 1536, TOKENIZER.eos_ids, lanes=2)
        self.gate = gate
        self.closed = closed
        self.waits = threading.Event()
        """A lane has something to do."""

    def fresh(self, grammar: str) -> Any:
        if threading.current_thread().name.startswith(self.closed):
            self.waits.set()
            assert self.gate.wait(60)
        return super().fresh(grammar)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    monkeypatch.setattr(matcher, "QUICK_S", 60.0)  # lanes compile, however long a busy machine takes for that
    made = threading.Event()
    yield made
    made.set()


def gated(gate: threading.Event, grammar: str = WORD, **settings: Any) -> tuple[Inline, Gated]:
    """An engine whose masks are all computed beside the steps, none before the gate is open."""
    served = Inline(model_path(), **settings)
    grammars = Gated(gate)
    grammars.compile(grammar).result()
    served.built.scheduler.constrained.grammars = grammars
    served.built.scheduler.constrained.in_line_s = 0.0
    return served, grammars


def submit(engine: Engine, id: str, prompt: Sequence[int], sampling: SamplingParams) -> None:
    engine.submit(Request(id=id, token_ids=tuple(prompt), identities=(), sampling=sampling))


def until_idle(engine: Engine, told: list[Update]) -> dict[str, list[int]]:
    """What each has been told in all."""
    while not engine.idle:
        told += engine.step().updates
    engine.scheduler.check_integrity()
    return {id: tokens([one for one in told if one.id == id]) for id in {one.id for one in told}}


def steps(engine: Engine, done: Any, told: list[Update], within_s: float = 60.0) -> None:
    until = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < until, f"not within {within_s} s: {engine!r}"
        told += engine.step(patient=False).updates
        engine.rest(0.001)


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """Filled in line, nothing beside it."""
    with Inline(model_path(), overlap=False) as served:
        served.built.scheduler.constrained.in_line_s = float("inf")
        return [served.tokens([prompt], asked(i))[0] for i, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_answers_are_those_whose_masks_are_filled_in_line(
    settings: dict[str, Any], lanes: int, alone: list[list[int]]
) -> None:
    with Inline(model_path(), **settings) as served:
        constrained = served.built.scheduler.constrained
        constrained.in_line_s = 0.0
        constrained.grammars = Grammars(lambda: TOKENIZER, 1536, TOKENIZER.eos_ids, lanes=lanes)
        if "pages" in settings:
            served.built.scheduler.headroom = Careless()
        found = served.generate(PROMPTS, [asked(i) for i in range(len(PROMPTS))])
        assert bool(served.built.scheduler.retractions) == ("pages" in settings)
    assert [tokens(updates) for updates in found] == alone
    for i, updates in enumerate(found):
        if i % 4 != 3:
            check(i, text(updates))


def test_all_are_decoded_in_the_same_steps_once_all_masks_are_there() -> None:
    batches = []
    with Inline(model_path(), prefill_budget=16) as served:
        served.built.scheduler.constrained.in_line_s = 0.0
        served.engine.announce = batches.append
        served.generate(PROMPTS[:6], HELD)
    sizes = [len(batch.decode_rows) for batch in batches if len(batch.decode_rows)]
    assert max(sizes) == 6 and sizes.count(6) >= 30


def test_those_who_wait_for_their_first_masks_begin_in_one_step(gate: threading.Event) -> None:
    """Though some of their masks are there before others; who comes meanwhile begins in the next one."""
    served, grammars = gated(gate)
    grammars.closed = "mask-1"
    begun: list[int] = []
    with served:
        served.engine.announce = lambda batch: begun.append(len(batch.span_rows))
        for i in range(5):
            submit(served.engine, f"held-{i}", PROMPTS[i], HELD)
        served.engine.step(patient=False)
        assert served.engine.making, "whoever drives the engine need not wait for messages"
        waiting = served.built.scheduler.waiting
        steps(served.engine, lambda: any(one.matcher and one.matcher.made for one in waiting), [])
        for i in range(5, 8):
            submit(served.engine, f"held-{i}", PROMPTS[i], HELD)
        served.engine.step(patient=False)
        assert grammars.making and not begun
        gate.set()
        until_idle(served.engine, [])
    assert [spans for spans in begun if spans] == [5, 3]


def test_what_is_short_beside_a_step_is_filled_before_it(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine tells how long its steps take; no lane is asked for, or it would wait for the gate."""
    served, _ = gated(gate)
    with served:
        constrained = served.built.scheduler.constrained
        constrained.in_line_s = None
        monkeypatch.setattr(lanes, "IN_LINE_S", 0.0)
        served.tokens([PROMPTS[0]], [FREE])
        assert 0 < constrained.step_s() < 60
        constrained.step_s = lambda: 1e6
        submit(served.engine, "held", PROMPTS[1], HELD)
        told = until_idle(served.engine, [])["held"]
        assert told and not gate.is_set()


def test_who_waits_to_begin_waits_though_masks_seem_short_by_now(gate: threading.Event) -> None:
    """What is short hangs on the steps, whose times are measured while somebody waits."""
    served, grammars = gated(gate)
    grammars.closed = "mask-0"
    told: list[Update] = []
    with served:
        constrained = served.built.scheduler.constrained
        submit(served.engine, "first", PROMPTS[0], HELD)
        served.engine.step(patient=False)
        served.engine.step(patient=False)
        assert grammars.making
        submit(served.engine, "second", PROMPTS[1], HELD)
        told += served.engine.step(patient=False).updates
        constrained.in_line_s = float("inf")
        told += served.engine.step(patient=False).updates
        waiting = [one.request.id for one in served.built.scheduler.waiting]
        assert waiting == ["first", "second"] and not told
        gate.set()
        found = until_idle(served.engine, told)
    with Inline(model_path()) as other:
        assert other.tokens(PROMPTS[:2], HELD) == [found["first"], found["second"]]


def test_forms_that_come_by_the_hundred_do_not_fill_the_lanes(gate: threading.Event) -> None:
    served, grammars = gated(gate, max_running=4)
    with served:
        for i in range(20):
            submit(served.engine, f"held-{i}", PROMPTS[i % 8], HELD)
        served.engine.step(patient=False)
        served.engine.step(patient=False)
        assert sum(map(len, grammars._making.values())) == 4
        gate.set()
        found = until_idle(served.engine, [])
    assert len(found) == 20 and len({tuple(one) for one in found.values()}) == 8


@pytest.mark.parametrize("overlap", [False, True])
def test_nobody_without_a_form_waits_for_a_mask(gate: threading.Event, overlap: bool) -> None:
    """Those who come later are served, too; who asks for the form has to wait for its first mask."""
    served, grammars = gated(gate, overlap=overlap)
    told: list[Update] = []
    with served:
        submit(served.engine, "held", PROMPTS[0], HELD)
        submit(served.engine, "free", PROMPTS[1], FREE)
        steps(served.engine, lambda: Counter(one.id for one in told)["free"] == 50, told)
        submit(served.engine, "late", PROMPTS[2], replace(FREE, max_tokens=20))
        steps(served.engine, lambda: {"free", "late"} <= {one.id for one in told if one.finish}, told)
        assert grammars.making and "held" not in {one.id for one in told}
        gate.set()
        found = until_idle(served.engine, told)
    with Inline(model_path()) as other:
        params = [HELD, FREE, replace(FREE, max_tokens=20)]
        assert other.tokens(PROMPTS[:3], params) == [found[id] for id in ("held", "free", "late")]


def test_others_are_decoded_while_the_masks_of_running_answers_are_computed(gate: threading.Event) -> None:
    """Nobody with a form is, though some of their masks are there."""
    served, grammars = gated(gate)
    grammars.closed = "mask-1"
    told: list[Update] = []
    with served:
        constrained = served.built.scheduler.constrained
        constrained.in_line_s = float("inf")
        for i in range(3):
            submit(served.engine, f"held-{i}", PROMPTS[i], HELD)
        submit(served.engine, "free", PROMPTS[4], replace(FREE, max_tokens=300))
        steps(served.engine, lambda: Counter(one.id for one in told)["held-2"] >= 5, told)
        constrained.in_line_s = 0.0
        steps(served.engine, lambda: grammars.making, told)
        before = Counter(one.id for one in told)
        steps(served.engine, lambda: Counter(one.id for one in told)["free"] >= before["free"] + 80, told)
        running = served.built.scheduler.running
        steps(served.engine, lambda: any(one.matcher and one.matcher.made for one in running), told)
        steps(served.engine, lambda: Counter(one.id for one in told)["free"] >= before["free"] + 120, told)
        since = Counter(one.id for one in told) - before
        assert [since[f"held-{i}"] for i in range(3)] == [0, 0, 0]
        gate.set()
        found = until_idle(served.engine, told)
    with Inline(model_path()) as other:
        assert other.tokens(PROMPTS[:3], HELD) == [found[f"held-{i}"] for i in range(3)]


def test_an_engine_with_nothing_else_to_do_sleeps_until_a_mask_is_there(gate: threading.Event) -> None:
    served, grammars = gated(gate)
    calls = 0
    with served:
        submit(served.engine, "held", PROMPTS[0], HELD)
        opener = threading.Timer(0.5, gate.set)
        opener.start()
        while not served.engine.idle:
            served.engine.step()
            calls += 1
        opener.join()
    assert grammars.waits.is_set() and calls < 40 * 6, "a few for each token, however long its mask takes"


def test_an_abort_does_not_wait_for_the_mask_and_leaves_nothing(gate: threading.Event) -> None:
    served, grammars = gated(gate)
    told: list[Update] = []
    with served:
        constrained = served.built.scheduler.constrained
        constrained.in_line_s = float("inf")
        submit(served.engine, "held", PROMPTS[0], HELD)
        submit(served.engine, "other", PROMPTS[1], HELD)
        steps(served.engine, lambda: Counter(one.id for one in told)["other"] >= 3, told)
        constrained.in_line_s = 0.0
        steps(served.engine, lambda: grammars.making, told)
        assert grammars.waits.wait(20)
        served.engine.abort("held")
        submit(served.engine, "held", PROMPTS[0], HELD)
        submit(served.engine, "free", PROMPTS[3], replace(FREE, max_tokens=20))
        steps(served.engine, lambda: any(one.id == "free" and one.finish for one in told), told)
        assert [one.finish for one in told if one.id == "held"][-1] == "abort" and grammars.making
        again = len(told)
        gate.set()
        other = until_idle(served.engine, told)["other"]
        held = tokens([one for one in told[again:] if one.id == "held"])
        served.engine.step()
        assert not grammars.making
    with Inline(model_path()) as reference:
        assert reference.tokens(PROMPTS[:2], HELD) == [held, other]


def test_all_may_leave_while_their_masks_are_computed(gate: threading.Event) -> None:
    """An idle engine's next step collects what nobody waits for."""
    served, grammars = gated(gate)
    with served:
        submit(served.engine, "held", PROMPTS[0], HELD)
        steps(served.engine, lambda: grammars.making, [])
        served.engine.abort("held")
        assert served.engine.idle and grammars.making
        served.built.scheduler.check_integrity()
        gate.set()
        eventually(lambda: (served.engine.step(patient=False), not grammars.making)[1])


def test_who_is_sent_back_to_the_queue_begins_again_when_its_mask_is_there(gate: threading.Event) -> None:
    served, grammars = gated(gate, pages=40, page_size=4, cache="naive", max_model_len=150)
    told: list[Update] = []
    with served:
        scheduler = served.built.scheduler
        scheduler.headroom = Careless()
        scheduler.constrained.in_line_s = float("inf")
        submit(served.engine, "free", PROMPTS[0][:8], replace(FREE, max_tokens=130))
        submit(served.engine, "held", PROMPTS[1][:8], HELD)
        steps(served.engine, lambda: Counter(one.id for one in told)["held"] >= 16, told)
        scheduler.constrained.in_line_s = 0.0
        steps(served.engine, lambda: any(one.id == "free" and one.finish for one in told), told)
        assert scheduler.retractions and grammars.making and scheduler.waiting
        gate.set()
        found = until_idle(served.engine, told)
    with Inline(model_path()) as other:
        params = [replace(FREE, max_tokens=130), HELD]
        prompts = [PROMPTS[0][:8], PROMPTS[1][:8]]
        assert other.tokens(prompts, params) == [found["free"], found["held"]]


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a vocabulary of letters so large that masks of `[a-z ]{900}` take long."""
    shape, out = tmp_path_factory.mktemp("shape"), tmp_path_factory.mktemp("heavy")
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float32", "eos_token_id": 0,
    }  # fmt: skip
    (shape / "config.json").write_text(json.dumps(config))
    shapes.main(shape, out)
    return out


LONG = forms.regex("[a-z ]{900}")
HEAVY: dict[str, Any] = {"load_format": "dummy", "pages": 1000, "max_running": 32, "threads": 1}


def test_masks_of_a_large_vocabulary_are_computed_beside_by_themselves(heavy: Path) -> None:
    """By what the matchers' clocks say; in processes of their own as well."""
    prompts = [[300 + i, 400, 500 + i] for i in range(20)]
    params = [replace(HELD, max_tokens=24, grammar=LONG)] * 16 + [FREE] * 4
    with Inline(heavy, **HEAVY) as served:
        served.built.scheduler.constrained.in_line_s = float("inf")
        in_line = served.tokens(prompts, params)
    seen = Counter[bool]()
    with Inline(heavy, **HEAVY) as served:
        served.engine.announce = lambda batch: seen.update([served.engine.making])
        assert served.tokens(prompts, params) == in_line
    assert seen[True] >= 5, "steps were launched while masks were being computed"
    with LLM(str(heavy), **HEAVY) as llm:
        assert [list(one.token_ids) for one in llm.generate(prompts, params)] == in_line
    said = shapes.Tokenizer.from_file(str(heavy / "tokenizer.json")).decode(in_line[0])
    assert re.fullmatch("[a-z ]+", said)
