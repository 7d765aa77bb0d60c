"""From an engine's updates to text: after a prompt, with places, stops and errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.tokens import checkpoints

from baton.core.errors import (
    BatonError,
    Failed,
    InvalidField,
    PromptTooLong,
    QueueFull,
    WorkerDied,
)
from baton.core.types import Finish, SamplingParams
from baton.engine.transcript import Delta, Transcript, error_of
from baton.protocol.engine import Update
from baton.tokens import Tokenizer


@pytest.fixture(scope="module")
def llama2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(checkpoints.write(tmp_path_factory.mktemp("llama2"), "llama2"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(checkpoints.write(tmp_path_factory.mktemp("qwen"), "qwen"))


def take(transcript: Transcript, tokens: Sequence[int], last: str = "length") -> list[Delta]:
    ends = [None] * (len(tokens) - 1) + [last]
    return [transcript.take(Update("x", t, finish=f)) for t, f in zip(tokens, ends, strict=True)]


def test_a_word_after_a_prompt_keeps_its_space(llama2: Tokenizer, tmp_path: Path) -> None:
    prompt, words = llama2.encode("The quick"), llama2.encode("brown fox", add_special=False)
    after = Transcript(SamplingParams(), llama2, frozenset(), prompt)
    assert "".join(delta.text for delta in take(after, words)) == " brown fox"
    alone = Transcript(SamplingParams(), llama2, frozenset())
    assert "".join(delta.text for delta in take(alone, words)) == "brown fox"


def test_each_token_knows_where_it_begins(qwen: Tokenizer) -> None:
    text = "The quick 🙂天 fox"
    tokens = qwen.encode(text)
    deltas = take(Transcript(SamplingParams(), qwen, frozenset()), tokens)
    assert "".join(delta.text for delta in deltas) == text
    assert [delta.offset for delta in deltas] == [
        len(qwen.decode(tokens[:place]).rstrip("\ufffd")) for place in range(len(tokens))
    ]


def test_a_stop_string_cuts_the_text_and_names_itself(qwen: Tokenizer) -> None:
    transcript = Transcript(SamplingParams(stop=("brown",)), qwen, frozenset())
    deltas = []
    for token in qwen.encode("The quick brown fox"):
        deltas.append(transcript.take(Update("x", token)))
        if transcript.finish is not None:
            break
    assert "".join(delta.text for delta in deltas) == "The quick "
    assert (deltas[-1].finish, deltas[-1].stopped_by) == (Finish.STOP, "brown")


def test_the_token_that_ends_a_text_is_not_part_of_it(qwen: Tokenizer) -> None:
    end = qwen.eos_ids[0]
    deltas = take(Transcript(SamplingParams(), qwen, frozenset([end])), [*qwen.encode("fox"), end], "stop")
    assert "".join(delta.text for delta in deltas) == "fox"
    assert (deltas[-1].token_ids, deltas[-1].stopped_by) == ((end,), end)


@pytest.mark.parametrize(
    "error",
    [
        PromptTooLong("prompt", "is too long"),
        InvalidField("logit_bias", "names no token"),
        QueueFull("many wait"),
        WorkerDied("rank 0 is gone"),
    ],
)
def test_an_error_arrives_as_what_it_was(error: BatonError) -> None:
    field = error.field if isinstance(error, InvalidField) else None
    update = Update("x", finish="error", error=str(error), code=error.code, field=field)
    made = error_of(update)
    assert (type(made), str(made), made.status) == (type(error), str(error), error.status)
    with pytest.raises(type(error)):
        Transcript(SamplingParams(), None, frozenset()).take(update)


def test_an_error_of_an_unknown_kind_keeps_its_code() -> None:
    made = error_of(Update("x", finish="error", error="odd", code="odd_thing"))
    assert (type(made), made.code, made.status) == (Failed, "odd_thing", 500)
