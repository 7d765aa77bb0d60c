from __future__ import annotations

import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.tokens import templates
from transformers import AutoTokenizer

from baton.core.errors import InvalidField, Misconfigured
from baton.tokens.chat import ChatTemplates
from baton.tokens.tokenizer import Tokenizer

TEMPLATES = {"qwen": templates.QWEN3, "llama3": templates.LLAMA3, "llama2": templates.CHATML}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <now> & here, “quoted” 天",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
HELLO: list[dict[str, Any]] = [{"role": "user", "content": " Héllo 天\n"}]
LONG: list[dict[str, Any]] = [
    {"role": "system", "content": "You are <b>kind</b> & terse.", "name": None},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nTwo. ", "tool_calls": None},
    {"role": "user", "content": "Three?"},
]
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "Think <hard>",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
    {"role": "tool", "tool_call_id": "2", "content": "sun"},
]
SKIPS: list[dict[str, Any]] = [
    *HELLO,
    {"role": "skipped", "content": ""},
    *HELLO,
    {"role": "end", "content": ""},
]


@pytest.fixture(scope="module")
def references(checkpoint: dict[str, Path]) -> dict[str, Any]:
    return {
        kind: AutoTokenizer.from_pretrained(checkpoint[kind], chat_template=TEMPLATES[kind])
        for kind in TEMPLATES
    }


def ours(tokenizers: dict[str, Tokenizer], kind: str, **templates: str) -> ChatTemplates:
    return ChatTemplates(templates or {"default": TEMPLATES[kind]}, tokenizers[kind].special_tokens)


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("messages", [HELLO, LONG, CALLS, SKIPS], ids=["hello", "long", "calls", "skips"])
def test_prompts_equal_those_of_transformers(
    tokenizers: dict[str, Tokenizer],
    references: dict[str, Any],
    kind: str,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    prompt: bool,
) -> None:
    if kind == "llama2" and messages is CALLS:
        messages = LONG
    given = copy.deepcopy(messages)
    text = ours(tokenizers, kind).render(given, tools=tools, add_generation_prompt=prompt)
    assert given == messages
    assert text == references[kind].apply_chat_template(
        messages, tools=tools, add_generation_prompt=prompt, tokenize=False
    )
    assert tokenizers[kind].encode(text, add_special=False) == (
        references[kind].apply_chat_template(
            messages, tools=tools, add_generation_prompt=prompt, return_dict=False
        )
    )


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        ("qwen", {"enable_thinking": False}),
        ("qwen", {"enable_thinking": True, "unused": [1]}),
        ("llama3", {"tools_in_user_message": False, "date_string": "1 May"}),
        ("llama3", {"bos_token": "<begin>"}),
    ],
)
def test_variables_reach_the_template(
    tokenizers: dict[str, Tokenizer], references: dict[str, Any], kind: str, variables: dict[str, Any]
) -> None:
    assert ours(tokenizers, kind).render(HELLO, tools=TOOLS, variables=variables) == references[
        kind
    ].apply_chat_template(HELLO, tools=TOOLS, add_generation_prompt=True, tokenize=False, **variables)


def test_documents_reach_the_template(tokenizers: dict[str, Tokenizer], references: dict[str, Any]) -> None:
    documents = [{"title": "A", "text": "b & c"}, {"title": "D", "text": "e"}]
    text = ours(tokenizers, "llama2").render(HELLO, documents=documents)
    assert "A: b & c\nD: e\n" in text
    assert text == references["llama2"].apply_chat_template(
        HELLO, documents=documents, add_generation_prompt=True, tokenize=False
    )


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
@pytest.mark.parametrize("final", ["Sure, ", "Sure,", "  Sure\n\n", "<think>\nso\n</think>\n\nYes", "Hello"])
def test_the_final_message_stays_open(
    tokenizers: dict[str, Tokenizer], references: dict[str, Any], kind: str, final: str
) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": final}]
    call = {"add_generation_prompt": False, "continue_final_message": True}
    try:
        expected = references[kind].apply_chat_template(messages, tokenize=False, **call)
    except ValueError:
        with pytest.raises(InvalidField, match="continue_final_message"):
            ours(tokenizers, kind).render(messages, **call)
        return
    assert ours(tokenizers, kind).render(messages, **call) == expected
    assert expected.rstrip().endswith(final.split("\n")[-1].rstrip())


def test_parts_of_a_final_message_stay_open_too() -> None:
    chat = ChatTemplates({"default": templates.PARTS})
    parts = [{"type": "text", "text": "He"}, {"type": "text", "text": "llo "}, {"type": "image"}]
    text = chat.render(
        [{"role": "assistant", "content": parts}], add_generation_prompt=False, continue_final_message=True
    )
    assert text == "[assistant]Hello "
    for content in (None, [{"type": "image"}], []):
        with pytest.raises(InvalidField, match="no text to continue"):
            chat.render(
                [{"role": "assistant", "content": content}],
                add_generation_prompt=False,
                continue_final_message=True,
            )


@pytest.mark.parametrize("nothing", [{}, {"content": None}])
def test_a_message_of_calls_alone_needs_no_content(nothing: dict[str, None]) -> None:
    """As clients of tools send back what they had; a template may print every message's content."""
    one = ChatTemplates({"default": "{% for m in messages %}[{{ m.role + ' ' + m.content }}]{% endfor %}"})
    calls = {"role": "assistant", **nothing, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert one.render([*HELLO[-1:], calls]) == f"[user {HELLO[-1]['content']}][assistant ]"
    with pytest.raises(InvalidField, match="no text to continue"):
        one.render([calls], add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(InvalidField, match="does not take them"):
        one.render([{"role": "user", **nothing}])


def test_a_template_for_tools_serves_requests_with_tools() -> None:
    chat = ChatTemplates({"default": "plain", "tool_use": "tools", "rag": "no"})
    assert chat.render(HELLO) == "plain"
    assert chat.render(HELLO, tools=[]) == "tools"
    assert ChatTemplates({"default": "plain"}).render(HELLO, tools=TOOLS) == "plain"


def test_templates_that_take_parts_are_told_from_those_that_take_text() -> None:
    assert ChatTemplates({"default": templates.PARTS}).reads_parts()
    for text in TEMPLATES.values():
        assert not ChatTemplates({"default": text}).reads_parts()
    loop = "{% set c = messages[0]['content'] if x else [] %}{% for p in c|list %}{% endfor %}"
    assert ChatTemplates({"default": "x", "tool_use": loop}).reads_parts(tools=True)
    assert not ChatTemplates({}).reads_parts()


def test_the_clock_is_the_callers() -> None:
    chat = ChatTemplates({"default": "{{ strftime_now('%Y-%m-%d') }}"}, now=lambda: datetime(2031, 2, 3))
    assert chat.render(HELLO) == "2031-02-03"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ messages[5].content.x }}", "no element 5"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[0].__class__.__mro__ }}", "unsafe|safely"),
        ("{{ messages.append(1) }}", "safe"),
        ("{% for i in range(10000000) %}{% endfor %}", "[Rr]ange"),
    ],
)
def test_whatever_a_template_does_is_the_fields_error(template: str, says: str) -> None:
    with pytest.raises(InvalidField, match=says) as caught:
        ChatTemplates({"default": template}).render(HELLO)
    assert caught.value.field == "messages"
    assert caught.value.status == 400


def test_requests_that_make_no_sense_are_refused(tokenizers: dict[str, Tokenizer]) -> None:
    chat = ours(tokenizers, "qwen")
    with pytest.raises(InvalidField, match="at least one"):
        chat.render([])
    with pytest.raises(InvalidField, match="continue_final_message"):
        chat.render(HELLO, continue_final_message=True)
    with pytest.raises(InvalidField, match="chat_template_kwargs: tools has a field"):
        chat.render(HELLO, variables={"tools": []})
    with pytest.raises(InvalidField, match="no chat template"):
        ChatTemplates({}).render(HELLO)
    assert not ChatTemplates({}) and chat


def test_a_template_that_does_not_parse_stops_the_start() -> None:
    with pytest.raises(Misconfigured, match="chat template 'default', line 2"):
        ChatTemplates({"default": "a\n{% if %}"})
