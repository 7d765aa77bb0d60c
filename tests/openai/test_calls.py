"""Calls of tools read out of an answer: cut anywhere, streamed and whole, and only where tools were given."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from baton.core.types import Finish
from baton.openai import (
    Choice,
    Endpoint,
    ServedModel,
    Shape,
    Usage,
    answers,
    choice_stream,
    read_chat,
    response,
)
from baton.openai.calls import Call, CallReader
from baton.openai.reasoning import Reasoning

USAGE = Usage(prompt_tokens=3, completion_tokens=0)
LOOK = 'I look.\n<tool_call>\n{"name": "find", "arguments": {"what": [1, "é"]}}\n</tool_call>'
FOUND = Call("find", '{"what": [1, "é"]}')
PIECES = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<",
        "<tool",
        "{",
        '{"name": "f"}',
        '{"name": "g", "arguments": {}}',
        " ",
        "a",
    ]
)
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]


def read(text: str, *places: int) -> tuple[str, list[Call]]:
    reader, said, calls = CallReader(), "", []
    ends = [*sorted(places), len(text)]
    for begin, end in zip([0, *ends], [*ends, None], strict=True):
        part = reader.feed(text[begin:end], last=end is None)
        said += part.text
        calls += part.calls
    return said, calls


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (LOOK, "I look.", [FOUND]),
        (f'{LOOK}\n<tool_call>{{"name":"g"}}</tool_call>\n', "I look.", [FOUND, Call("g", "{}")]),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call> so', "so", [Call("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [Call("f", '{"a": 1}')]),
        ('<tool_call>{"arguments": null, "name": "f"}</tool_call>', "", [Call("f", "{}")]),
        ("<tool_call>no call</tool_call> a", "<tool_call>no call</tool_call> a", []),
        ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        ('<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
        ("a < b <tool ", "a < b <tool ", []),
    ],
)  # fmt: skip
def test_what_stands_between_the_tags_is_a_call_if_it_is_one(text: str, said: str, calls: list[Call]) -> None:
    assert read(text) == (said, calls)


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 90), max_size=8))
def test_where_a_text_is_cut_makes_no_difference(pieces: list[str], places: list[int]) -> None:
    text = "".join(pieces)
    assert read(text, *(min(place, len(text)) for place in places)) == read(text)


def asked(model: ServedModel, **fields: Any) -> Shape:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return read_chat(json.dumps(body).encode(), model, id="req-1", created=1).shape


def test_calls_are_read_where_tools_were_given_and_the_template_knows_how(
    model: ServedModel, llama2: ServedModel
) -> None:
    assert asked(model, tools=TOOLS).calls
    assert asked(model, tools=TOOLS, tool_choice="auto").calls
    assert not asked(model, tools=TOOLS, tool_choice="none").calls
    assert not asked(model, tools=[]).calls
    assert not asked(model).calls
    assert not asked(llama2, tools=TOOLS).calls
    assert asked(model, tools=TOOLS, parallel_tool_calls=False).one_call
    assert not asked(model, tools=TOOLS, parallel_tool_calls=True).one_call


def shape(calls: bool = True) -> Shape:
    return Shape(endpoint=Endpoint.CHAT, id="x", model="m", created=1, calls=calls, reasoning=Reasoning.MAY)


def whole(
    model: ServedModel, text: str, *, calls: bool = True, finish: Finish = Finish.STOP
) -> dict[str, Any]:
    choice = Choice(index=0, text=text, token_ids=(1,), finish=finish, usage=USAGE)
    body = response(shape(calls), [choice], model.tokenizer)
    msgspec.json.decode(body, type=answers.ChatCompletion)
    ChatCompletion.model_validate_json(body)
    return dict(json.loads(body)["choices"][0])


def test_a_whole_answer_has_its_calls(model: ServedModel) -> None:
    made = whole(model, f"<think>hm</think>{LOOK}")
    (call,) = made["message"]["tool_calls"]
    assert call["function"] == {"name": "find", "arguments": '{"what": [1, "é"]}'}
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert (made["message"]["content"], made["message"]["reasoning_content"]) == ("I look.", "hm")
    assert made["finish_reason"] == "tool_calls"
    assert whole(model, LOOK, finish=Finish.LENGTH)["finish_reason"] == "length"
    assert whole(model, LOOK[7:])["message"]["content"] is None
    plain = whole(model, "Yes.")
    assert plain["finish_reason"] == "stop" and "tool_calls" not in plain["message"]
    assert whole(model, LOOK, calls=False)["message"]["content"] == LOOK


def test_a_stream_brings_each_call_whole(model: ServedModel) -> None:
    stream, choices = choice_stream(shape(), model.tokenizer, USAGE), []
    pieces = [*(LOOK[at : at + 9] for at in range(0, len(LOOK), 9)), '<tool_call>{"name":"g"}</tool_call>']
    for at, text in enumerate([*pieces, ""]):
        event = stream.chunk(text, [at], finish=Finish.STOP if at == len(pieces) else None)
        assert event.startswith(b"id: 0.%d" % at), "an event names its tokens, whatever it tells"
        body = event.split(b"data: ")[1]
        msgspec.json.decode(body, type=answers.ChatChunk)
        ChatCompletionChunk.model_validate_json(body)
        choices.append(json.loads(body)["choices"][0])
    deltas = [choice["delta"] for choice in choices]
    assert "".join(delta.get("content", "") for delta in deltas) == "I look."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "find"), (1, "g")]
    assert calls[0]["function"]["arguments"] == '{"what": [1, "é"]}'
    again = whole(model, "".join(pieces))["message"]["tool_calls"]
    assert [call["id"] for call in calls] == [call["id"] for call in again]
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_who_wants_one_call_gets_the_first(model: ServedModel) -> None:
    one, g = replace(shape(), one_call=True), '<tool_call>{"name":"g"}</tool_call>'
    choice = Choice(index=0, text=LOOK + g, token_ids=(1,), finish=Finish.STOP, usage=USAGE)
    made = json.loads(response(one, [choice], model.tokenizer))["choices"][0]
    assert [call["function"]["name"] for call in made["message"]["tool_calls"]] == ["find"]
    assert made["finish_reason"] == "tool_calls"
    stream = choice_stream(one, model.tokenizer, USAGE)
    for at, text in enumerate([LOOK, g, g]):
        event = stream.chunk(text, [at], finish=Finish.STOP if at == 2 else None)
        delta = json.loads(event.split(b"data: ")[1])["choices"][0]["delta"]
        assert ("tool_calls" in delta) == (at == 0)
