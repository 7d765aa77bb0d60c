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
from tests.tokens import templates

from baton.core.types import Finish
from baton.grammar import forms
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
from baton.openai.callreader import call_reader
from baton.openai.calls import FRAMES, Call, Style
from baton.openai.reasoning import Reasoning
from baton.tokens.chat import ChatTemplates

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
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "[",
        "]",
        ";",
        ",",
        " ",
        "a",
    ]
)
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]


def read(text: str, *places: int, style: Style = Style.TAGGED) -> tuple[str, list[Call]]:
    reader, said, calls = call_reader(style, ["f", "g", "find"]), "", []
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


F, G = '{"name": "f", "parameters": {"a": [1, "}\\"{"]}}', '{"name":"g","arguments":{}}'
CALL_F, CALL_G = Call("f", '{"a": [1, "}\\"{"]}'), Call("g", "{}")


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (F, "", [CALL_F]),
        (f" <|python_tag|>{F}; {G}\n", "", [CALL_F, CALL_G]),
        (f"{F} so", "so", [CALL_F]),
        (f"{F}{G}; ", "", [CALL_F, CALL_G]),
        (f"{F}; {{}} {G}", f"{{}} {G}", [CALL_F]),
        (f"{F}\x0b;", "\x0b;", [CALL_F]),
        (" " * 200 + F, " " * 200 + F, []),
        (" " * 200, " " * 200, []),
        (F.replace('"f"', '"Alice"'), F.replace('"f"', '"Alice"'), []),
        ('{"name": "f", "parameters": 5}', '{"name": "f", "parameters": 5}', []),
        ('{"name": "f", "parameters": "x"}', '{"name": "f", "parameters": "x"}', []),
        ('{"name": "f", "parameters": "{\\"a\\": 1}"}', "", [Call("f", '{"a": 1}')]),
        (f"I look. {F}", f"I look. {F}", []),
        ('{"name": "f"}', '{"name": "f"}', []),
        ('{"name": 1, "parameters": {}}', '{"name": 1, "parameters": {}}', []),
        ('{"a": {}} then', '{"a": {}} then', []),
        (F[:-1], F[:-1], []),
        ("<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        (f"[{G}]", f"[{G}]", []),
        ("<|py", "<|py", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_an_answer_may_begin_with_calls(text: str, said: str, calls: list[Call]) -> None:
    assert read(text, style=Style.BARE) == (said, calls)


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (f"[TOOL_CALLS] [{G}, {F}]", "", [CALL_G, CALL_F]),
        (f"[{G}]", "", [CALL_G]),
        (f"[{G}];,", ",", [CALL_G]),
        (f"[TOOL_CALLS][{G}] [{G}]\n", f"[{G}]\n", [CALL_G]),
        ("[1, 2] are two", "[1, 2] are two", []),
        (f'[{G}, {{"name": "f"}}]', f'[{G}, {{"name": "f"}}]', []),
        ("[]", "[]", []),
        ("[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
        ("[TOOL_CALLS]", "[TOOL_CALLS]", []),
        ("[TOOL", "[TOOL", []),
        (G, G, []),
    ],
)
def test_an_answer_may_begin_with_a_list_of_calls(text: str, said: str, calls: list[Call]) -> None:
    assert read(text, style=Style.LISTED) == (said, calls)


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 90), max_size=8), st.sampled_from(Style))
def test_where_a_text_is_cut_makes_no_difference(pieces: list[str], places: list[int], style: Style) -> None:
    text = "".join(pieces)
    assert read(text, *(min(place, len(text)) for place in places), style=style) == read(text, style=style)


def asked(model: ServedModel, **fields: Any) -> Shape:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return read_chat(json.dumps(body).encode(), model, id="req-1", created=1).shape


def test_calls_are_read_where_tools_were_given_and_the_template_knows_how(
    model: ServedModel, llama2: ServedModel
) -> None:
    assert asked(model, tools=TOOLS).calls is Style.TAGGED
    assert asked(model, tools=TOOLS, tool_choice="auto").calls is Style.TAGGED
    assert asked(model, tools=TOOLS, tool_choice="none").calls is None
    assert asked(model, tools=[]).calls is None
    assert asked(model).calls is None
    assert asked(llama2, tools=TOOLS).calls is None
    assert asked(model, tools=TOOLS, guided_json={"type": "object"}).calls is None, "it has to say that alone"
    assert asked(model, tools=TOOLS, tool_choice="required").calls is Style.TAGGED


def test_templates_say_how_calls_are_written(model: ServedModel) -> None:
    llama = asked(templated(model, templates.LLAMA3), tools=TOOLS)
    assert (llama.calls, llama.tools, llama.one_call) == (Style.BARE, ("find",), True)
    mistral = asked(templated(model, templates.MISTRAL), tools=TOOLS)
    assert (mistral.calls, mistral.tools, mistral.one_call) == (Style.LISTED, ("find",), False)
    later = templates.MISTRAL.replace("[TOOL_CALLS] [", "[TOOL_CALLS]f[ARGS]")
    assert asked(templated(model, later), tools=TOOLS).calls is None


def test_one_call_or_several(model: ServedModel) -> None:
    assert asked(model, tools=TOOLS).tools == ()
    assert asked(model, tools=TOOLS, parallel_tool_calls=False).one_call
    assert not asked(model, tools=TOOLS, parallel_tool_calls=True).one_call


def templated(model: ServedModel, template: str) -> ServedModel:
    known = ChatTemplates({"default": template}, model.tokenizer.special_tokens)
    return replace(model, templates=known, max_length=2000)


def shape(calls: Style | None = Style.TAGGED) -> Shape:
    how = {"calls": calls, "tools": ("f", "g"), "reasoning": Reasoning.MAY}
    return Shape(endpoint=Endpoint.CHAT, id="x", model="m", created=1, **how)  # type: ignore[arg-type]


def whole(
    model: ServedModel, text: str, *, calls: Style | None = Style.TAGGED, finish: Finish = Finish.STOP
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
    assert whole(model, LOOK, calls=None)["message"]["content"] == LOOK


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


@pytest.mark.parametrize(
    ("template", "text"),
    [(templates.LLAMA3, F), (templates.MISTRAL, f"[TOOL_CALLS] [{G}]")],
    ids=["llama", "mistral"],
)
def test_a_call_can_be_told_the_template_again(model: ServedModel, template: str, text: str) -> None:
    """With the id that it had: Mistral's templates refuse others than they make."""
    other = templated(model, template)
    (call,) = whole(other, text, calls=other.calls)["message"]["tool_calls"]
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "3"},
        {"role": "user", "content": "so?"},
    ]
    body = {"messages": messages, "tools": TOOLS}
    read_back = read_chat(json.dumps(body).encode(), other, id="req-1", created=1)
    prompt = model.tokenizer.decode(read_back.prompts[0].token_ids)
    assert f'"{call["function"]["name"]}"' in prompt


@pytest.mark.parametrize("template", [templates.LLAMA3, templates.MISTRAL], ids=["llama", "mistral"])
def test_a_call_can_be_forced_however_it_is_written(model: ServedModel, template: str) -> None:
    other = templated(model, template)
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS, "tool_choice": "required"}
    asked = read_chat(json.dumps(body).encode(), other, id="req-1", created=1)
    assert other.calls is not None
    several = template == templates.MISTRAL  # Llama's takes no two back
    wanted = forms.calls({"find": {}}, FRAMES[other.calls], several=several)
    assert asked.sampling[0].grammar == wanted
