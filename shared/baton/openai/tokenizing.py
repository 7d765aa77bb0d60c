"""POST /tokenize and /detokenize, as vLLM has them: what a prompt would be, without running it."""

from __future__ import annotations

from typing import Any

import msgspec

from baton.core.errors import InvalidField
from baton.openai.decode import decode_body
from baton.openai.prompt import chat_prompt
from baton.openai.requests import DetokenizeRequest, TokenizeRequest
from baton.openai.served import ServedModel


def tokenize(body: bytes, model: ServedModel) -> bytes:
    request = decode_body(body, TokenizeRequest)
    request.check_served()
    model.name(request.model)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidField("prompt", "need either prompt or messages")
    if request.prompt is None:
        ids = list(chat_prompt(request, model).token_ids)
    else:
        add_special = True if request.add_special_tokens is None else request.add_special_tokens
        ids = model.tokenizer.encode(request.prompt, add_special=add_special)
    made: dict[str, Any] = {"count": len(ids), "max_model_len": model.max_length, "tokens": ids}
    if request.return_token_strs:
        made["token_strs"] = [model.tokenizer.token(token_id) for token_id in ids]
    return msgspec.json.encode(made)


def detokenize(body: bytes, model: ServedModel) -> bytes:
    request = decode_body(body, DetokenizeRequest)
    model.name(request.model)
    model.tokenizer.check_ids(request.tokens, "tokens", model.vocabulary)
    text = model.tokenizer.decode(request.tokens, skip_special=bool(request.skip_special_tokens))
    return msgspec.json.encode({"prompt": text})
