"""A model that thinks, on a running pod: its thoughts come beside the content, streamed and whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.decode.served import Pod

import openai
from baton.tiny import model_path

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
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(Path(model_path()) / name, folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": TEMPLATE}))
    pod = Pod("--names", "m", "--engine.tokenizer", str(folder))
    try:
        pod.await_line("ready")
        with openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            yield client
    finally:
        pod.close()


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
