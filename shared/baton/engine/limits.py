"""What one engine can hold, and which requests it can never serve. Pure; asked before anything is queued."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from baton.core.errors import InvalidField, PromptTooLong
from baton.core.types import Request


class Mixing(Enum):
    """Whether prompts and decodes share steps."""

    NEVER = auto()
    KNOWN = auto()
    """While it is known how long every answer will be, which is what filling steps up needs."""
    ALWAYS = auto()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine can hold and do in a step."""

    max_model_len: int
    max_running: int
    max_queued: int
    prefill_budget: int
    mixing: Mixing
    lines: int
    """Of a mixed step that is filled up, where a policy gives way."""
    vocab: int
    eos: frozenset[int]


def check(request: Request, limits: Limits, pool: int) -> None:
    """Raise what is wrong with a request; `pool` is how many tokens all pages hold."""
    if not request.token_ids:
        raise InvalidField("prompt", "must have at least one token")
    _check_length(request, limits.max_model_len, pool)
    for name, ids in (("prompt", request.token_ids), ("generated", request.generated)):
        if ids and not 0 <= min(ids) <= max(ids) < limits.vocab:
            raise InvalidField(name, f"has a token id outside 0 to {limits.vocab - 1}")
    for token, _ in request.sampling.logit_bias:
        if token >= limits.vocab:
            raise InvalidField("logit_bias", f"token {token} is outside 0 to {limits.vocab - 1}")


def _check_length(request: Request, longest: int, pool: int) -> None:
    prompt, generated = len(request.token_ids), len(request.generated)
    if prompt >= longest:
        raise PromptTooLong("prompt", f"has {prompt} tokens; with one of output the most is {longest}")
    if prompt >= pool:
        raise PromptTooLong("prompt", f"has {prompt} tokens; the pool holds {pool} in all")
    most = longest - prompt
    if request.sampling.max_tokens is not None:
        most = min(most, request.sampling.max_tokens)
    if generated and generated >= most:
        raise InvalidField("generated", f"has {generated} tokens already, which leaves none to generate")
    if prompt + generated >= pool:
        tokens = f"{prompt} tokens of prompt and {generated} generated"
        raise InvalidField("generated", f"{tokens} do not fit; the pool holds {pool}")
