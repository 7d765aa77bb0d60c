"""Maps the fields of a request to `SamplingParams`, with the model's own defaults where it has some.

Pure. Ranges are checked by `SamplingParams` itself; here an error only gets the name that its field
has in the request, so that the client finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baton.core.errors import InvalidField, UnsupportedField
from baton.core.types import SamplingParams
from baton.openai.requests import (
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    GenerateSampling,
    SampledBody,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What a request that does not say gets: the values that the model's makers chose."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, generation: Mapping[str, Any]) -> SamplingDefaults:
        """From generation_config.json. Its max_length and max_new_tokens are no default here: they are
        what an example was made with, not what clients expect."""
        given = {name: generation[name] for name in cls.__slots__ if generation.get(name) is not None}
        return cls(**given)


def chat_sampling(request: ChatRequest, defaults: SamplingDefaults, grammar: str) -> SamplingParams:
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidField("top_logprobs", "needs logprobs to be true")
    limit, limit_name = request.max_completion_tokens, "max_completion_tokens"
    if limit is None:
        limit, limit_name = request.max_tokens, "max_tokens"
    return _params(
        {"max_tokens": limit_name, "logprobs": "top_logprobs"},
        **_shared(request, defaults, grammar),
        max_tokens=limit,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
    )


def completion_sampling(
    request: CompletionRequest, defaults: SamplingDefaults, grammar: str
) -> SamplingParams:
    n = 1 if request.n is None else request.n
    if request.best_of not in (None, n):
        raise UnsupportedField("best_of", f"only as many as n ({n}) are made, none is dropped")
    prompt_logprobs = request.prompt_logprobs
    if request.echo and prompt_logprobs is None:
        # The prompt is part of the text then, so its tokens have log-probabilities too.
        prompt_logprobs = request.logprobs
    return _params(
        {},
        **_shared(request, defaults, grammar),
        max_tokens=16 if request.max_tokens is None else request.max_tokens,
        logprobs=request.logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def generate_sampling(
    request: GenerateRequest, given: GenerateSampling, defaults: SamplingDefaults, grammar: str, path: str
) -> SamplingParams:
    """`path` is where `given` was found in the request."""
    given.check_served(f"{path}.")
    top = (request.top_logprobs_num or 0) if request.return_logprob else None
    wants_prompt = request.return_logprob and _or(request.logprob_start_len, -1) >= 0
    renamed = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens", "seed": "sampling_seed"}
    names = {name: f"{path}.{renamed.get(name, name)}" for name in SamplingParams.__slots__}
    return _params(
        {**names, "logprobs": "top_logprobs_num", "prompt_logprobs": "top_logprobs_num"},
        **_tuned(given, defaults),
        max_tokens=given.max_new_tokens,
        min_tokens=given.min_new_tokens or 0,
        seed=given.sampling_seed,
        logprobs=top,
        prompt_logprobs=top if wants_prompt else None,
        include_stop_str_in_output=bool(given.no_stop_trim),
        grammar=grammar,
    )


def _shared(request: SampledBody, defaults: SamplingDefaults, grammar: str) -> dict[str, Any]:
    return {
        **_tuned(request, defaults),
        "min_tokens": request.min_tokens or 0,
        "seed": request.seed,
        "grammar": grammar,
        "include_stop_str_in_output": bool(request.include_stop_str_in_output or request.no_stop_trim),
    }


def _tuned(given: SampledBody | GenerateSampling, defaults: SamplingDefaults) -> dict[str, Any]:
    """The fields that have one name everywhere."""
    stop = given.stop
    return {
        **{name: _or(getattr(given, name), getattr(defaults, name)) for name in SamplingDefaults.__slots__},
        "presence_penalty": _or(given.presence_penalty, 0.0),
        "frequency_penalty": _or(given.frequency_penalty, 0.0),
        "logit_bias": tuple((given.logit_bias or {}).items()),
        "stop": (stop,) if isinstance(stop, str) else tuple(stop or ()),
        "stop_token_ids": tuple(given.stop_token_ids or ()),
        "ignore_eos": bool(given.ignore_eos),
        "n": _or(given.n, 1),
        "skip_special_tokens": _or(given.skip_special_tokens, True),
    }


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _params(names: Mapping[str, str], **values: Any) -> SamplingParams:
    try:
        return SamplingParams(**values)
    except InvalidField as error:
        if error.field not in names:
            raise
        message = str(error).removeprefix(f"{error.field}: ")
        raise InvalidField(names[error.field], message) from error
