"""How many tokens an answer cost, read from what a pod says at its end, without reading the rest of it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(slots=True)
class Counted:
    prompt: int = 0
    generated: int = 0
    cached: int | None = None
    """None where the answer does not say."""


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _OpenAI(msgspec.Struct):
    usage: _Usage | None = None


class _Meta(msgspec.Struct):
    completion_tokens: int = 0
    cached_tokens: int = 0


class _Generated(msgspec.Struct):
    meta_info: _Meta | None = None


_openai = msgspec.json.Decoder(_OpenAI)
_generated = msgspec.json.Decoder(_Generated | list[_Generated])


def usage_of(answer: bytes, before: Counted) -> Counted:
    """Of a whole answer, of any endpoint. What cannot be read is not counted."""
    try:
        if answer.startswith((b"[", b'{"text"')):
            found = _generated.decode(answer)
            metas = [
                one.meta_info for one in (found if isinstance(found, list) else [found]) if one.meta_info
            ]
            generated = sum(one.completion_tokens for one in metas)
            return Counted(before.prompt, generated, sum(one.cached_tokens for one in metas))
        usage = _openai.decode(answer).usage
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return before
    if usage is None:
        return before
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return Counted(before.prompt, usage.completion_tokens, cached)
