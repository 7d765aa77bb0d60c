"""Answers that follow a grammar, from pods: handed over, resumed, and asked for with OpenAI's client."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.decode.pods import running
from tests.decode.served import templated

import openai
from baton.core.types import SamplingParams
from baton.grammar import forms
from baton.tiny import model_path
from baton.tokens import Tokenizer

TOKENIZER = Tokenizer.load(model_path())
PROMPTS = [TOKENIZER.encode(f"{i}: what is handed over, and to whom? " * (1 + i % 3)) for i in range(8)]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"word": {"enum": ["page", "pod"]}, "count": {"type": "integer", "maximum": 99}},
    "required": ["word", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (1, 2)])
def test_a_first_token_counts_once_wherever_it_is_drawn(prefill: int, decode: int) -> None:
    """Drawn under the grammar by the prefill pod, and followed by the decode pod."""
    sampling = SamplingParams(
        max_tokens=60, temperature=1.0, seed=5, grammar=forms.regex("[a-z]{2}-[0-9]{9,12}")
    )

    async def check() -> None:
        async with running(model_path(), prefill_ranks=[prefill], decode_ranks=decode) as pods:
            handed = await pods.generate(PROMPTS, sampling)
            marks = {what for timeline in pods.timelines.values() for what, _ in timeline.marks}
            assert "landed" in marks, "nothing was handed over"
            assert handed == await pods.generate(PROMPTS, sampling, through=pods.prefills[0])
            assert all(re.fullmatch("[a-z]{2}-[0-9]{9,12}", TOKENIZER.decode(one)) for one in handed)
            for prompt, one in zip(PROMPTS, handed, strict=True):
                _, rest = pods.begin(prompt, sampling, pods.handoffs, generated=one[:5])
                assert await asyncio.wait_for(rest, 30) == one[5:]
            await pods.settled()

    asyncio.run(check())


TEMPLATE = (
    "{%- for tool in tools or [] %}{{- tool.function.name }} is called by <tool_call>\n{%- endfor %}"
    "{%- for message in messages %}{{- message.role + ': ' + message.content + '\n' }}{%- endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "count", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The bundled model, with a template that says how tools are called."""
    with templated(tmp_path_factory.mktemp("tokenizer"), TEMPLATE) as made:
        yield made


def ask(client: openai.OpenAI, **more: Any) -> Any:
    said = [{"role": "user", "content": "Count the pages."}]
    return client.chat.completions.create(model="m", messages=said, max_tokens=900, **more)  # type: ignore[call-overload]


def test_json_of_a_schema(client: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA, "strict": True}}
    for seed in range(8):
        (choice,) = ask(client, seed=seed, temperature=1.0, response_format=wanted).choices
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
        assert choice.finish_reason == "stop"


def test_a_stream_and_several_choices(client: openai.OpenAI) -> None:
    more: dict[str, Any] = {"seed": 3, "n": 3, "extra_body": {"structured_outputs": {"regex": "[a-c]{4,9}"}}}
    whole = [choice.message.content for choice in ask(client, **more).choices]
    texts = ["", "", ""]
    for event in ask(client, **more, stream=True):
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == whole and len(set(whole)) > 1
    assert all(re.fullmatch("[a-c]{4,9}", text) for text in whole)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "count"}}])
def test_a_call_that_is_forced(client: openai.OpenAI, choice: Any) -> None:
    check_forced(client, choice)


@pytest.mark.parametrize("says", ["[TOOL_CALLS]", '{"name": …, "parameters": …} and ipython has the rest'])
def test_a_call_that_is_forced_without_tags(tmp_path: Path, says: str) -> None:
    with templated(tmp_path, TEMPLATE.replace("<tool_call>", says)) as client:
        check_forced(client, "required")


def check_forced(client: openai.OpenAI, choice: Any) -> None:
    more: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "seed": 1}
    (whole,) = ask(client, **more).choices
    (call,) = whole.message.tool_calls
    assert (call.function.name, whole.message.content, whole.finish_reason) == ("count", None, "tool_calls")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    deltas = [event.choices[0].delta for event in ask(client, **more, stream=True)]
    (streamed,) = [one for delta in deltas for one in delta.tool_calls or ()]
    said = (streamed.function.name, streamed.function.arguments)
    assert said == ("count", call.function.arguments) and not any(delta.content for delta in deltas)


def test_what_is_wrong_is_an_error_of_its_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body={"guided_regex": "[0-9"})
    assert caught.value.param == "guided_regex" and "unclosed" in caught.value.message
