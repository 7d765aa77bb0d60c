"""Answers that follow a grammar: whole, and the same whatever else is served; nobody else is disturbed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from tests.checkpoints import Make
from tests.engine.inline import Careless, Inline
from tests.engine.test_scheduler import VOCAB, engine, request
from transformers import AutoModelForCausalLM

from baton.core.errors import InvalidField
from baton.core.types import SamplingParams
from baton.engine import LLM
from baton.grammar import forms
from baton.grammar.matcher import Grammars
from baton.protocol.engine import Update
from baton.tiny import model_path
from baton.tokens import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
CHOICES = ["yes", "no", "not at all"]
GRAMMARS = (forms.json_schema(SCHEMA), forms.regex(r"[0-9]{3}-[a-z]{2,9}!"), forms.choice(CHOICES))
TOKENIZER = Tokenizer.load(model_path())
SETTINGS: list[dict[str, Any]] = [
    {},
    {"overlap": False},
    {"mixed": True, "prefill_budget": 32},
    {"mixed": True, "policy": "lof"},
    {"max_running": 5},
    {"pages": 60, "page_size": 4, "cache": "naive"},
]
PROMPTS = [TOKENIZER.encode(f"{i}: who is there? " * (1 + i % 5)) for i in range(16)]


def asked(i: int, **more: Any) -> SamplingParams:
    """Every fourth without a grammar; some greedy, some with penalties, alternatives or a small top_k."""
    how: dict[str, Any] = {"seed": i, "max_tokens": 400, "temperature": (0.0, 1.0, 0.7)[i % 3]}
    if i % 5 == 1:
        how |= {"presence_penalty": 0.5, "logprobs": 1}
    if i % 5 == 2:
        how |= {"top_k": 20, "top_p": 0.9, "logit_bias": ((3, 1.0),)}
    if i % 4 == 3:
        return SamplingParams(**how | {"max_tokens": 30} | more)
    return SamplingParams(**how | {"grammar": GRAMMARS[i % 4]} | more)


def tokens(updates: Sequence[Update]) -> list[int]:
    return [update.token for update in updates if update.token is not None]


def text(updates: Sequence[Update]) -> str:
    return TOKENIZER.decode(tokens(updates))


def check(i: int, said: str) -> None:
    match i % 4:
        case 0:
            jsonschema.validate(json.loads(said), SCHEMA)
        case 1:
            assert re.fullmatch(r"[0-9]{3}-[a-z]{2,9}!", said)
        case 2:
            assert said in CHOICES


@pytest.fixture(scope="module")
def alone() -> Iterator[list[list[int]]]:
    """What each is answered when nobody else is there and nothing overlaps."""
    with Inline(model_path(), overlap=False) as served:
        yield [tokens(served.generate([prompt], asked(i))[0]) for i, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_each_follows_its_grammar_and_is_what_it_is_alone(
    settings: dict[str, Any], alone: list[list[int]]
) -> None:
    with Inline(model_path(), **settings) as served:
        if "pages" in settings:
            served.built.scheduler.headroom = Careless()
        found = served.generate(PROMPTS, [asked(i) for i in range(len(PROMPTS))])
        assert bool(served.built.scheduler.retractions) == ("pages" in settings)
    for i, updates in enumerate(found):
        assert tokens(updates) == alone[i], i
        if i % 4 != 3:
            assert updates[-1].finish == "stop", "nothing follows, so it ends without a token that says so"
            check(i, text(updates))


def test_greedy_is_the_likeliest_of_what_may_come() -> None:
    """Against transformers and a matcher, token by token."""
    grammars = Grammars(lambda: TOKENIZER, 1536, TOKENIZER.eos_ids)
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    with Inline(model_path()) as served:
        params = [replace(asked(i), temperature=0.0, seed=None) for i in (0, 4, 8)]
        found = served.generate([PROMPTS[i] for i in (0, 4, 8)], params)
    for i, updates in zip((0, 4, 8), found, strict=True):
        matcher, ids = grammars.matcher(GRAMMARS[0]), list(PROMPTS[i])
        while not matcher.over:
            bits = np.unpackbits(grammars.masks([matcher])[0], bitorder="little")[:1536]
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.masked_fill(~torch.from_numpy(bits.astype(bool)), -torch.inf).argmax()))
            assert matcher.take(ids[-1])
        assert tokens(updates) == ids[len(PROMPTS[i]) :]


@pytest.mark.parametrize("had", [1, 4, 9])
def test_an_answer_goes_on_where_another_pod_left_it(had: int, alone: list[list[int]]) -> None:
    some = [i for i in range(len(PROMPTS)) if i % 4 == 0 and len(alone[i]) > had]
    with Inline(model_path()) as served:
        rest = served.generate(
            [PROMPTS[i] for i in some], [asked(i) for i in some], [alone[i][:had] for i in some]
        )
    assert some and [tokens(updates) for updates in rest] == [alone[i][had:] for i in some]


def test_a_step_waits_for_a_token_that_decides_and_then_takes_all() -> None:
    """All with grammars are decoded in the same steps, though they came one after the other."""
    batches = []
    with Inline(model_path(), prefill_budget=16) as served:
        served.engine.announce = batches.append
        params = SamplingParams(max_tokens=40, grammar=forms.regex("[a-z]{60}"), temperature=0.0)
        served.generate(PROMPTS[:6], params)
    sizes = [len(batch.decode_rows) for batch in batches if len(batch.decode_rows)]
    assert max(sizes) == 6 and sizes.count(6) >= 30


def test_what_cannot_be_followed_is_refused() -> None:
    params = asked(0)
    with Inline(model_path()) as served:
        for wrong, field in (
            (replace(params, grammar="{"), "grammar"),
            (replace(params, grammar='{"grammars": [{"lark_grammar": "start: /[0-9/"}]}'), "grammar"),
        ):
            with pytest.raises(InvalidField) as error:
                served.generate([PROMPTS[0]], wrong)
            assert error.value.field == field
        with pytest.raises(InvalidField, match="does not follow the grammar"):
            served.generate([PROMPTS[0]], params, [TOKENIZER.encode("hello")])
        served.built.scheduler.check_integrity()
    with pytest.raises(InvalidField, match="min_tokens"):
        replace(params, min_tokens=3)


def test_a_model_without_a_tokenizer_says_so(checkpoint: Make) -> None:
    with Inline(checkpoint("qwen3").directory) as served, pytest.raises(InvalidField, match="tokenizer"):
        served.generate([[1, 2, 3]], asked(0))


@pytest.mark.parametrize("ranks", [1, 2])
def test_processes_of_their_own_say_the_same(ranks: int, alone: list[list[int]]) -> None:
    """Compiled in a thread while others are served; masks reach every rank."""
    with LLM(str(model_path()), tensor_parallel=ranks, pages=600, max_running=32, threads=1) as llm:
        found = llm.generate(PROMPTS, [asked(i) for i in range(len(PROMPTS))])
        with pytest.raises(InvalidField, match="grammar"):
            llm.generate("hello", SamplingParams(grammar="{"))
        long = forms.json_schema({"enum": [f"word {i}" for i in range(3000)]})
        (word,) = llm.generate("hello", SamplingParams(grammar=long, max_tokens=30))
        assert re.fullmatch(r'"word \d+"', word.text)
    assert [list(one.token_ids) for one in found] == alone


def test_a_tokenizer_that_lies_elsewhere(checkpoint: Make) -> None:
    """`engine.tokenizer`; the model's vocabulary is smaller than that one."""
    params = SamplingParams(grammar=forms.regex("[0-9]{7}"), temperature=1.0, seed=3)
    with Inline(checkpoint("qwen3").directory, tokenizer=str(model_path())) as served:
        (said,) = served.generate([[1, 2, 3]], params)
    assert re.fullmatch("[0-9]{7}", text(said)) and len(tokens(said)) == 7


def test_an_answer_that_cannot_go_on_ends_with_an_error_of_its_client_s() -> None:
    """Of the client's, since another pod would get no further: nobody is to try again."""
    served = engine()
    served.scheduler.constrained.grammars = Grammars(lambda: TOKENIZER, VOCAB, ())
    served.submit(request("free", [1, 2, 3], 9))
    served.submit(
        request("held", [1, 2, 3, 4], 9, grammar=forms.regex("[0-9]{30}"))
    )  # nobody heeds masks here
    told = [update for _ in range(40) for update in served.step().updates]
    (ended,) = [update for update in told if update.id == "held"]
    assert (ended.finish, ended.code, ended.field) == ("error", InvalidField.code, "grammar")
    assert len([update for update in told if update.id == "free"]) == 9
    assert served.idle
    served.scheduler.check_integrity()
