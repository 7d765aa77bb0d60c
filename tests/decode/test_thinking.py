"""A model that thinks, on a running pod: its thoughts come beside the content, streamed and whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.decode.served import templated

import openai

TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' +"
    " message.content.split('</think>')[-1] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}"
    "{%- if enable_thinking is false %}{{- '\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "What is a page?"}]}
ASK |= {"max_tokens": 20, "temperature": 0.0}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The bundled model, with a template that begins a thought."""
    with templated(tmp_path_factory.mktemp("tokenizer"), TEMPLATE) as made:
        yield made


def ask(client: openai.OpenAI, **extra: Any) -> tuple[str | None, dict[str, Any]]:
    """The content, and what OpenAI does not have in a message."""
    made = client.chat.completions.create(**ASK, extra_body={"ignore_eos": True, **extra})
    message = made.choices[0].message
    return message.content, message.model_extra or {}


def test_thoughts_come_beside_the_content(client: openai.OpenAI) -> None:
    content, extra = ask(client)
    thought = extra["reasoning_content"]
    assert content == "" and thought
    raw, extra = ask(client, separate_reasoning=False)
    assert raw is not None and raw.strip() == thought.strip()
    assert "reasoning_content" not in extra


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    _, whole = ask(client)
    stream = client.chat.completions.create(**ASK, extra_body={"ignore_eos": True}, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    thoughts = [(delta.model_extra or {}).get("reasoning_content", "") for delta in deltas]
    assert "".join(thoughts) == whole["reasoning_content"] and len(thoughts) > 2
    assert not any(delta.content for delta in deltas)


def test_who_wants_no_thoughts_gets_an_answer(client: openai.OpenAI) -> None:
    content, extra = ask(client, chat_template_kwargs={"enable_thinking": False})
    assert content and extra["reasoning_content"] is None
