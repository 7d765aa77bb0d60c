"""Prompts as token ids, from every form in which a request may carry them.

Pure but for the tokenizer's work, which takes milliseconds for long prompts: call it off the event loop.
Lengths are checked by the caller, who knows how much output is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baton.core.errors import InvalidField
from baton.openai.messages import template_messages, template_tools
from baton.openai.requests import ChatRequest, CompletionRequest, GenerateRequest, TokenizeRequest
from baton.openai.served import ServedModel
from baton.openai.shape import Prompt

MAX_PROMPTS = 1024
"""In one request."""


def chat_prompt(request: ChatRequest | TokenizeRequest, model: ServedModel) -> Prompt:
    choice = request.tool_choice if isinstance(request, ChatRequest) else None
    tools = template_tools(request.tools, choice)
    templates = model.templates
    messages = template_messages(
        request.messages or (),
        parts=templates.reads_parts(tools is not None),
        developer=templates.mentions("developer"),
    )
    asked = request.add_generation_prompt
    text = templates.render(
        messages,
        tools=tools,
        documents=request.documents if isinstance(request, ChatRequest) else None,
        add_generation_prompt=not request.continue_final_message if asked is None else asked,
        continue_final_message=bool(request.continue_final_message),
        variables=_variables(request),
    )
    ids = model.tokenizer.encode(text, add_special=bool(request.add_special_tokens))
    if not ids:
        raise InvalidField("messages", "make an empty prompt")
    return Prompt(tuple(ids), text)


def completion_prompts(request: CompletionRequest, model: ServedModel) -> tuple[Prompt, ...]:
    return _prompts(request.prompt, "prompt", model, request.add_special_tokens is not False)


def generate_prompts(request: GenerateRequest, model: ServedModel) -> tuple[Prompt, ...]:
    if (request.text is None) == (request.input_ids is None):
        raise InvalidField("text", "need either text or input_ids")
    if request.text is not None:
        return _prompts(request.text, "text", model, add_special=True)
    for place, one in enumerate(request.input_ids if is_batch(request.input_ids) else ()):
        _refuse_text(one, f"input_ids[{place}]")
    _refuse_text(request.input_ids, "input_ids")
    return _prompts(request.input_ids, "input_ids", model, add_special=True)


def is_batch(prompt: Any) -> bool:
    """A list of prompts, rather than one prompt as text or token ids."""
    # The first element decides what the client meant; a wrong one after it is then named.
    return isinstance(prompt, list) and not (prompt and type(prompt[0]) is int)


def _refuse_text(given: Any, path: str) -> None:
    if isinstance(given, str):
        raise InvalidField(path, "need token ids; text goes into text")


def _variables(request: ChatRequest | TokenizeRequest) -> dict[str, Any]:
    variables = dict(request.chat_template_kwargs or {})
    if isinstance(request, ChatRequest) and request.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", request.reasoning_effort)
    return variables


def _prompts(given: Any, path: str, model: ServedModel, add_special: bool) -> tuple[Prompt, ...]:
    if not is_batch(given):
        return (_prompt(given, path, model, add_special),)
    if not 1 <= len(given) <= MAX_PROMPTS:
        raise InvalidField(path, f"need 1 to {MAX_PROMPTS} prompts, not {len(given)}")
    if all(isinstance(one, str) for one in given):
        all_ids = model.tokenizer.encode_all(given, add_special=add_special)
        return tuple(
            Prompt(_not_empty(ids, f"{path}[{place}]"), text)
            for place, (ids, text) in enumerate(zip(all_ids, given, strict=True))
        )
    return tuple(_prompt(one, f"{path}[{place}]", model, add_special) for place, one in enumerate(given))


def _prompt(given: Any, path: str, model: ServedModel, add_special: bool) -> Prompt:
    if isinstance(given, str):
        return Prompt(_not_empty(model.tokenizer.encode(given, add_special=add_special), path), given)
    if not isinstance(given, list):
        raise InvalidField(path, "need text, token ids, or a list of either")
    # A set of types is the fastest check of a long list; a bool is no token id.
    if set(map(type, given)) - {int}:
        wrong = next(place for place, one in enumerate(given) if type(one) is not int)
        raise InvalidField(f"{path}[{wrong}]", "need a token id")
    model.tokenizer.check_ids(given, path, model.vocabulary)
    return Prompt(_not_empty(given, path))


def _not_empty(ids: Sequence[int], path: str) -> tuple[int, ...]:
    if not ids:
        raise InvalidField(path, "need at least one token")
    return tuple(ids)
