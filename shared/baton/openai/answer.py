"""Formats a finished request as one JSON body, for each of the three endpoints that generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from baton.core.types import Finish, TokenLogprob
from baton.openai.logprobs import (
    chat_logprobs,
    completion_logprobs,
    prompt_logprobs,
    prompt_offsets,
    scored,
    top_scored,
)
from baton.openai.said import Reader
from baton.openai.shape import Choice, Endpoint, Prompt, Shape, Timeline, Usage
from baton.tokens.tokenizer import Tokenizer

CHUNK_OBJECT = {Endpoint.CHAT: "chat.completion.chunk", Endpoint.COMPLETION: "text_completion"}


def response(
    shape: Shape, choices: Sequence[Choice], tokenizer: Tokenizer, timeline: Timeline | None = None
) -> bytes:
    """The whole answer. `choices` are all of the request's, in order; `timeline` is told where it is known,
    with the first of several answers."""
    told = {} if timeline is None else {"baton": timeline}
    if shape.endpoint is Endpoint.GENERATE:
        made = [_generated(shape, choice, tokenizer) for choice in choices]
        made[0] |= told
        return msgspec.json.encode(made if shape.batched or len(made) > 1 else made[0])
    chat = shape.endpoint is Endpoint.CHAT
    body: dict[str, Any] = {
        "id": shape.id,
        "object": "chat.completion" if chat else "text_completion",
        "created": shape.created,
        "model": shape.model,
        "choices": [(_chat if chat else _completion)(shape, choice, tokenizer) for choice in choices],
        "usage": usage_object(Usage.total([choice.usage for choice in choices], shape.n)),
    }
    if chat:
        body |= _about_prompt(shape, choices[0], tokenizer)
    return msgspec.json.encode(body | told)


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def prompt_text(prompt: Prompt, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(prompt.token_ids) if prompt.text is None else prompt.text


def echoed_scores(prompt: Prompt, logprobs: Sequence[TokenLogprob | None]) -> list[TokenLogprob | int]:
    """The prompt's tokens as `completion_logprobs` takes them."""
    return [score or token_id for token_id, score in zip(prompt.token_ids, logprobs, strict=True)]


def finish_object(finish: Finish | None, stop: str | int | None, usage: Usage) -> dict[str, Any] | None:
    """SGLang's form of a finish reason."""
    match finish:
        case None:
            return None
        case Finish.STOP:
            return {"type": "stop", "matched": stop}
        case Finish.LENGTH:
            return {"type": "length", "length": usage.completion_tokens}
        case _:
            return {"type": finish.value}


def _chat(shape: Shape, choice: Choice, tokenizer: Tokenizer) -> dict[str, Any]:
    logprobs, reader = choice.logprobs, Reader(shape, choice.index)
    said = reader.feed(choice.text, last=True)
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
    if shape.reasoning is not None:
        message["reasoning_content"] = said.thought or None
    if said.calls:
        message |= {"content": said.content or None, "tool_calls": said.calls}
    made: dict[str, Any] = {
        "index": choice.index,
        "message": message,
        "logprobs": None if logprobs is None else chat_logprobs(logprobs, tokenizer, shape),
        "finish_reason": reader.finish(choice.finish),
        "stop_reason": choice.stop,
    }
    if shape.return_token_ids:
        made["token_ids"] = choice.token_ids
    return made


def _completion(shape: Shape, choice: Choice, tokenizer: Tokenizer) -> dict[str, Any]:
    echoed = prompt_text(choice.prompt, tokenizer) if shape.echo and choice.prompt is not None else ""
    made: dict[str, Any] = {
        "index": choice.index,
        "text": echoed + choice.text,
        "logprobs": _completion_scores(shape, choice, len(echoed), tokenizer),
        "finish_reason": choice.finish,
        "stop_reason": choice.stop,
    }
    if shape.return_token_ids:
        made["token_ids"] = choice.token_ids
    return made | _about_prompt(shape, choice, tokenizer)


def _completion_scores(
    shape: Shape, choice: Choice, echoed: int, tokenizer: Tokenizer
) -> dict[str, Any] | None:
    if choice.logprobs is None:
        return None
    offsets = [echoed + offset for offset in choice.offsets]
    if not shape.echo or choice.prompt is None or choice.prompt_logprobs is None:
        return completion_logprobs(choice.logprobs, offsets, tokenizer, shape)
    scores = [*echoed_scores(choice.prompt, choice.prompt_logprobs), *choice.logprobs]
    offsets = prompt_offsets(choice.prompt, tokenizer) + offsets
    return completion_logprobs(scores, offsets, tokenizer, shape)


def _about_prompt(shape: Shape, choice: Choice, tokenizer: Tokenizer) -> dict[str, Any]:
    """vLLM's extras: the prompt's token ids and log-probabilities."""
    about: dict[str, Any] = {}
    if shape.return_token_ids and choice.prompt is not None:
        about["prompt_token_ids"] = choice.prompt.token_ids
    told = shape.echo and choice.logprobs is not None  # with those of the text
    if choice.prompt_logprobs is not None and not told:
        about["prompt_logprobs"] = prompt_logprobs(choice.prompt_logprobs, tokenizer)
    return about


def _generated(shape: Shape, choice: Choice, tokenizer: Tokenizer) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "id": shape.id,
        "finish_reason": finish_object(choice.finish, choice.stop, choice.usage),
        "prompt_tokens": choice.usage.prompt_tokens,
        "completion_tokens": choice.usage.completion_tokens,
        "cached_tokens": choice.usage.cached_tokens,
    }
    if choice.logprobs is not None:
        meta["output_token_logprobs"] = scored(choice.logprobs, tokenizer, shape)
        meta["output_top_logprobs"] = top_scored(choice.logprobs, tokenizer, shape)
    if choice.prompt_logprobs is not None:
        start = shape.logprob_start
        known = [token for token in choice.prompt_logprobs[start:] if token is not None]
        unknown = len(choice.prompt_logprobs[start:]) - len(known)
        first = [(None, token_id, None) for token_id in (choice.prompt.token_ids if choice.prompt else ())]
        meta["input_token_logprobs"] = [*first[:unknown], *scored(known, tokenizer, shape)]
        meta["input_top_logprobs"] = [*[None] * unknown, *top_scored(known, tokenizer, shape)]
    return {"text": choice.text, "output_ids": choice.token_ids, "meta_info": meta}
