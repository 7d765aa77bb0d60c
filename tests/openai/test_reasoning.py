"""Thoughts told apart from answers: cut anywhere, streamed and whole, and only where a model thinks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.core.types import Finish
from baton.openai import Choice, Endpoint, ServedModel, Shape, Usage, choice_stream, read_chat, response
from baton.openai.reasoning import Part, Reasoning, Splitter, reasoning_of

USAGE = Usage(prompt_tokens=3, completion_tokens=0)
PIECES = st.sampled_from(["<think>", "</think>", "<", "</thi", ">", " ", "\n", "a", "bc"])


def split(text: str, reasoning: Reasoning, *places: int, whole: bool = False) -> Part:
    splitter, parts = Splitter(reasoning, whole), []
    ends = [*sorted(places), len(text)]
    for begin, end in zip([0, *ends], ends, strict=False):
        parts.append(splitter.feed(text[begin:end]))
    parts.append(splitter.feed("", last=True))
    return Part("".join(part.thought for part in parts), "".join(part.answer for part in parts))


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\nhm,\nwell \n</think>\n\nYes. <think>", "hm,\nwell", "Yes. <think>"),
        ("  <think></think>a", "", "a"),
        ("a <think>b</think>", "", "a <think>b</think>"),
        (" \n", "", " \n"),
        ("<thi", "", "<thi"),
        ("<think>never ends </thin", "never ends </thin", ""),
        ("", "", ""),
    ],
)
def test_what_stands_between_the_tags_is_a_thought(text: str, thought: str, answer: str) -> None:
    assert split(text, Reasoning.MAY) == (thought, answer)


@pytest.mark.parametrize("text", ["hm\n</think>\n\nYes.", "<think>\nhm\n</think>\n\nYes."])
def test_the_prompt_may_have_opened_the_tag(text: str) -> None:
    assert split(text, Reasoning.BEGUN) == ("hm", "Yes.")
    assert split("all of it", Reasoning.BEGUN) == ("all of it", "")


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 60), max_size=8), st.sampled_from(Reasoning))
def test_where_a_text_is_cut_makes_no_difference(
    pieces: list[str], places: list[int], reasoning: Reasoning
) -> None:
    text = "".join(pieces)
    assert split(text, reasoning, *(min(place, len(text)) for place in places)) == split(text, reasoning)
    whole = Splitter(reasoning).feed(text, last=True)
    assert split(text, reasoning) == whole == split(text, reasoning, *places, whole=True)


def test_a_prompt_says_whether_thinking_has_begun() -> None:
    assert reasoning_of("<|assistant|><think>\n") is Reasoning.BEGUN
    assert reasoning_of("<|assistant|><think>\n\n</think>\n\n") is Reasoning.MAY
    assert reasoning_of("what is <think>?<|assistant|>") is Reasoning.MAY
    assert reasoning_of("<|assistant|><think>hm", "<think>hm") is Reasoning.BEGUN
    assert reasoning_of("<|assistant|><think>hm</think>so", "<think>hm</think>so") is Reasoning.MAY
    assert reasoning_of("<|assistant|>so", [{"type": "text", "text": "so"}]) is Reasoning.MAY


def asked(model: ServedModel, **fields: Any) -> Shape:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return read_chat(json.dumps(body).encode(), model, id="req-1", created=1).shape


def test_a_model_thinks_whose_template_knows_the_tag(model: ServedModel, llama2: ServedModel) -> None:
    assert asked(model).reasoning is Reasoning.MAY
    assert asked(model, chat_template_kwargs={"enable_thinking": False}).reasoning is Reasoning.MAY
    assert asked(model, separate_reasoning=False).reasoning is None
    assert asked(llama2).reasoning is None
    assert asked(model).thoughts and not asked(model, include_reasoning=False).thoughts
    assert asked(model, stream_reasoning=False).thought_whole
    assert not asked(model, stream_reasoning=True).thought_whole and not asked(model).thought_whole
    going_on = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>hm"}]
    assert asked(model, messages=going_on, continue_final_message=True).reasoning is Reasoning.BEGUN


def shape(reasoning: Reasoning | None = Reasoning.MAY, *, thoughts: bool = True) -> Shape:
    return Shape(endpoint=Endpoint.CHAT, id="x", model="m", created=1, reasoning=reasoning, thoughts=thoughts)


def test_a_whole_answer_has_both(model: ServedModel) -> None:
    def message(text: str, reasoning: Reasoning | None = Reasoning.MAY) -> dict[str, Any]:
        choice = Choice(index=0, text=text, token_ids=(1,), finish=Finish.STOP, usage=USAGE)
        return dict(
            json.loads(response(shape(reasoning), [choice], model.tokenizer))["choices"][0]["message"]
        )

    thought = message("<think>\nhm\n</think>\n\nYes.")
    assert (thought["content"], thought["reasoning_content"]) == ("Yes.", "hm")
    plain = message("Yes.")
    assert (plain["content"], plain["reasoning_content"]) == ("Yes.", None)
    raw = message("<think>hm</think>", None)
    assert raw["content"] == "<think>hm</think>" and "reasoning_content" not in raw


def test_a_stream_tells_a_thought_before_the_answer(model: ServedModel) -> None:
    stream = choice_stream(shape(), model.tokenizer, USAGE)
    deltas = []
    for at, text in enumerate(["<thi", "nk>\nh", "m\n</th", "ink>\n\n", "Yes", ""]):
        event = stream.chunk(text, [at], finish=Finish.STOP if at == 5 else None)
        assert event.startswith(b"id: 0.%d" % at), "an event names its tokens, whatever it tells"
        deltas.append(json.loads(event.split(b"data: ")[1])["choices"][0]["delta"])
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "h"},
        {"reasoning_content": "m"},
        {},
        {"content": "Yes"},
        {},
    ]


def test_thoughts_that_are_not_wanted_are_left_out(model: ServedModel) -> None:
    stream = choice_stream(shape(thoughts=False), model.tokenizer, USAGE)
    events = stream.chunk("<think>hm", [1]), stream.chunk("m</think>Yes", [2], finish=Finish.STOP)
    deltas = [json.loads(event.split(b"data: ")[1])["choices"][0]["delta"] for event in events]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Yes"}]


@pytest.mark.parametrize("ended", [True, False])
def test_a_thought_may_come_in_one_piece(model: ServedModel, ended: bool) -> None:
    asked = replace(shape(), thought_whole=True)
    pieces = ["<think>h", "m, ", "well", "\n</think>" if ended else "", "Yes" if ended else ""]
    for known in range(len(pieces)):  # by the client, when another goes on with the stream
        delivered = {"delivered": range(known), "delivered_text": "".join(pieces[:known])} if known else {}
        stream, deltas = choice_stream(asked, model.tokenizer, USAGE, **delivered), []
        for at, text in list(enumerate(pieces))[known:]:
            event = stream.chunk(text, [at], finish=Finish.STOP if at == len(pieces) - 1 else None)
            deltas.append(json.loads(event.split(b"data: ")[1])["choices"][0]["delta"])
        said = [delta for delta in deltas if delta and "role" not in delta]
        thought = [{"reasoning_content": "hm, well"}] if not ended or known < 4 else []
        assert said == thought + ([{"content": "Yes"}] if ended else [])
