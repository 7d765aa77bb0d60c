"""The forms that clients may ask for, by every name, and what is said of those that cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from baton.core.errors import InvalidField
from baton.grammar import forms
from baton.openai import ServedModel, read_chat, read_completion, read_generate
from baton.openai.calls import FRAMES, Style

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
JSON, ANY = forms.json_schema(SCHEMA), forms.json_object()
WORDS, DIGITS, LETTERS = forms.choice(["yes", "no"]), forms.regex("[0-9]+"), forms.ebnf('root ::= "a"+')
TAGS = ("<think>", "</think>")
ASKED: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"response_format": {"type": "text"}}, ""),
    ({"response_format": {"type": "json_object"}}, ANY),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, JSON),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}},
        JSON,
    ),
    ({"structured_outputs": {"json": SCHEMA}}, JSON),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, JSON),
    ({"structured_outputs": {"json_object": True}}, ANY),
    ({"structured_outputs": {"json_object": False, "regex": "[0-9]+"}}, DIGITS),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, WORDS),
    ({"structured_outputs": {"grammar": 'root ::= "a"+'}}, LETTERS),
    ({"guided_json": SCHEMA}, JSON),
    ({"guided_regex": "[0-9]+"}, DIGITS),
    ({"guided_choice": ["yes", "no"]}, WORDS),
    ({"guided_grammar": 'root ::= "a"+'}, LETTERS),
    ({"json_schema": json.dumps(SCHEMA)}, JSON),
    ({"regex": "[0-9]+"}, DIGITS),
    ({"ebnf": 'root ::= "a"+'}, LETTERS),
]


@pytest.mark.parametrize(("fields", "grammar"), ASKED, ids=lambda one: str(one)[:40])
def test_every_name(model: ServedModel, llama2: ServedModel, fields: dict[str, Any], grammar: str) -> None:
    body = json.dumps({"prompt": "hi", **fields}).encode()
    assert read_completion(body, model, id="7", created=5).sampling[0].grammar == grammar
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode()
    assert read_chat(body, llama2, id="7", created=5).sampling[0].grammar == grammar


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"json_schema": json.dumps(SCHEMA)}, JSON),
        ({"regex": "[0-9]+"}, DIGITS),
        ({"ebnf": 'root ::= "a"+'}, LETTERS),
        ({"regex": None}, ""),
    ],
)
def test_every_name_of_generate(model: ServedModel, fields: dict[str, Any], grammar: str) -> None:
    body = {"text": ["a", "b"], "sampling_params": [fields, {}]}
    asked = read_generate(json.dumps(body).encode(), model, id="7", created=5)
    assert [one.grammar for one in asked.sampling] == [grammar, ""]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "a name and a schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
            "response_format.json_schema.schema",
            "not list",
        ),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "is empty"),
        ({"structured_outputs": {"choices": ["a"]}}, "structured_outputs.choices", "nrecognized"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "one text or more"),
        ({"guided_choice": [1]}, "guided_choice[0]", "Expected"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "'structural_tag' is not"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag",
            "is not served",
        ),
        (
            {"structured_outputs": {"json": {}, "whitespace_pattern": " *"}},
            "structured_outputs.whitespace_pattern",
            "may stand between",
        ),
        ({"guided_json": "{"}, "guided_json", "no JSON"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": None}}},
            "response_format.json_schema.schema",
            "not NoneType",
        ),
        ({"guided_regex": "a", "ebnf": 'root ::= "a"'}, "guided_regex", "said by ebnf already"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex", "by response_format already"),
        ({"regex": "a", "min_tokens": 3}, "min_tokens", "where a grammar says"),
    ],
)
def test_what_is_wrong_is_said_of_its_field(
    model: ServedModel, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidField, match=says) as caught:
        read_completion(json.dumps({"prompt": "hi", **fields}).encode(), model, id="7", created=5)
    assert caught.value.field == param


def chat_grammar(model: ServedModel, **fields: Any) -> str:
    body = {"messages": [{"role": "user", "content": "hi"}], "guided_choice": ["yes", "no"], **fields}
    model = replace(model, max_length=2000)
    return read_chat(json.dumps(body).encode(), model, id="7", created=5).sampling[0].grammar


def test_a_model_that_thinks_may_do_so_before_it_answers_in_form(model: ServedModel) -> None:
    assert chat_grammar(model) == forms.after_thought(WORDS, *TAGS, begun=False, special=False)
    assert chat_grammar(model, chat_template_kwargs={"enable_thinking": False}) == WORDS
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>well"}]
    more = {"messages": begun, "continue_final_message": True}
    assert chat_grammar(model, **more) == forms.after_thought(WORDS, *TAGS, begun=True, special=False)


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}, {"function": {"name": "g"}}]
BOTH: dict[str, Any] = {"f": SCHEMA, "g": None}
PLAIN = {"chat_template_kwargs": {"enable_thinking": False}, "guided_choice": None, "tools": TOOLS}
F = {"type": "function", "function": {"name": "f"}}
LARGE = {"enum": ["x" * 200_000]}


@pytest.mark.parametrize(
    ("fields", "tools", "several"),
    [
        ({"tool_choice": "required"}, BOTH, True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, BOTH, False),
        ({"tool_choice": F}, {"f": SCHEMA}, False),
    ],
)
def test_a_call_may_be_forced(
    model: ServedModel, fields: dict[str, Any], tools: dict[str, Any], several: bool
) -> None:
    calls = forms.calls(tools, FRAMES[Style.TAGGED], several=several)
    assert chat_grammar(model, **PLAIN, **fields) == calls
    thinking = {**PLAIN, "chat_template_kwargs": None}
    assert chat_grammar(model, **thinking, **fields) == forms.after_thought(
        calls, *TAGS, begun=False, special=False
    )


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tool_choice": "required", "tools": None}, "tools", "one or more"),
        (
            {"tool_choice": "required", "tools": [*TOOLS, {"function": {"name": "g"}}]},
            "tools",
            "names of their own",
        ),
        ({"tools": None, "guided_choice": ["x" * 131_020]}, "guided_choice", "more than"),
        ({"tool_choice": "always"}, "tool_choice", "'auto', 'none', 'required' or name a function"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "name a function of tools"),
        (
            {"tool_choice": {**F, "function": {"name": "h"}}},
            "tool_choice.function.name",
            "'h' is none",
        ),
        ({"tool_choice": "required", "regex": "a"}, "tool_choice", "asks for a call, and regex for"),
        (
            {"tool_choice": F, "tools": [{"function": {"name": "f", "parameters": LARGE}}]},
            "tools",
            "have parameters of which one has",
        ),
    ],
)
def test_what_cannot_be_forced_is_said(
    model: ServedModel, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidField, match=says) as caught:
        chat_grammar(model, **{**PLAIN, **fields})
    assert caught.value.field == param


def test_a_model_that_writes_calls_otherwise_cannot_be_forced(llama2: ServedModel) -> None:
    with pytest.raises(InvalidField, match="tool_choice: no call can be forced"):
        chat_grammar(llama2, **PLAIN, tool_choice="required")


def test_a_request_has_a_few_forms_and_not_a_thousand(model: ServedModel) -> None:
    given = [{"regex": f"[0-9]{{{n}}}"} for n in range(1, 18)]
    body = json.dumps({"text": ["a"] * 17, "sampling_params": given}).encode()
    with pytest.raises(InvalidField, match="sampling_params: at most 16 different forms"):
        read_generate(body, model, id="7", created=5)


def test_each_form_is_named_by_the_field_it_came_in(model: ServedModel) -> None:
    """For whoever compiles it before it is served."""
    body = json.dumps({"prompt": ["a", "b"], "structured_outputs": {"regex": "[0-9]+"}}).encode()
    asked = read_completion(body, model, id="7", created=5)
    assert asked.forms == ((DIGITS, "structured_outputs.regex"),)
    given = [{"regex": "[0-9]+"}, {}, {"ebnf": 'root ::= "a"+'}]
    body = json.dumps({"text": ["a", "b", "c"], "sampling_params": given}).encode()
    asked = read_generate(body, model, id="7", created=5)
    assert asked.forms == ((DIGITS, "sampling_params[0].regex"), (LETTERS, "sampling_params[2].ebnf"))
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "guided_choice": ["yes", "no"]})
    asked = read_chat(body.encode(), model, id="7", created=5)
    assert asked.forms == ((asked.sampling[0].grammar, "guided_choice"),)
    assert read_completion(b'{"prompt": "a"}', model, id="7", created=5).forms == ()
