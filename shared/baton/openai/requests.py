"""The bodies that clients may send, field by field, as OpenAI, vLLM and SGLang name them.

`decode` fills these types; `sampling` and `prompt` read them. They hold only what the wire holds:
types are checked here, ranges where a value is used. Null is as good as absent. A field that is known and
not served is listed in `REFUSED` with the reason that its caller is told; fields that change nothing for a
single server (`user`, `metadata` and the like) are accepted and not read.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from baton.core.errors import UnsupportedField

_NO_MEDIA = "only text is served"
_NO_BEAM = "beam search is not served"

REFUSED = {
    "allowed_token_ids": "limiting the vocabulary is not served; use logit_bias",
    "audio": _NO_MEDIA,
    "audio_data": _NO_MEDIA,
    "bad_words": "is not served; use logit_bias",
    "chat_template": "the model's own template is used; clients cannot supply one",
    "custom_logit_processor": "is not served",
    "custom_params": "is not served",
    "disable_additional_properties": "is not served; the schema itself may say additionalProperties: false",
    "disable_any_whitespace": "is not served: a space or an indented line may stand between parts of JSON",
    "early_stopping": _NO_BEAM,
    "function_call": "is deprecated; use tool_choice",
    "functions": "is deprecated; use tools",
    "image_data": _NO_MEDIA,
    "input_embeds": "prompts are text or token ids",
    "length_penalty": _NO_BEAM,
    "lora_path": "adapters are chosen by the model's name",
    "mm_processor_kwargs": _NO_MEDIA,
    "modalities": _NO_MEDIA,
    "moderation": "is not served",
    "prediction": "is not served",
    "prompt_embeds": "prompts are text or token ids",
    "return_hidden_states": "is not served",
    "session_params": "is not served; prefixes are cached without sessions",
    "stop_regex": "is not served; use stop",
    "structural_tag": "is not served; response_format and regex are",
    "suffix": "is not served: the model continues prompts, it does not fill gaps",
    "token_ids_logprob": "is not served; use top_logprobs_num",
    "truncate_prompt_tokens": "prompts are never cut",
    "use_beam_search": _NO_BEAM,
    "video_data": _NO_MEDIA,
    "web_search_options": "is not served",
    "whitespace_pattern": "is not served: a space or an indented line may stand between parts of JSON",
}


_ASKS_NOTHING: tuple[Any, ...] = (None, False, "", [], {}, ["text"])
"""["text"] is what `modalities` may say."""


Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""JSON has numbers of any length, the messages between pods have none beyond these. A seed may be larger."""


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all bodies."""

    def check_served(self, prefix: str = "") -> None:
        """Refuse what is known and not served. A null, false or empty value asks nothing."""
        for name in self.__struct_fields__:
            if name in REFUSED and getattr(self, name) not in _ASKS_NOTHING:
                raise UnsupportedField(prefix + name, REFUSED[name])


class StreamOptions(Body, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's: usage so far in every chunk."""
    include_obfuscation: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True):
    type: str
    json_schema: Any = None


class StructuredOutputs(Body, kw_only=True):
    """vLLM's: one of the first five."""

    json: str | dict[str, Any] | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: Any = None
    disable_fallback: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None


class SampledBody(Body, kw_only=True):
    """What both of OpenAI's endpoints share, and the extras of vLLM and SGLang."""

    model: str | None = None
    max_tokens: Int | None = None
    n: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None

    top_k: Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = False
    skip_special_tokens: bool | None = True
    include_stop_str_in_output: bool | None = False
    no_stop_trim: bool | None = False
    """SGLang's name for include_stop_str_in_output."""
    prompt_logprobs: Int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    """Name tokens in log-probabilities "token_id:123"."""
    priority: Int | None = 0
    cache_salt: str | None = None
    request_id: str | None = None
    rid: str | None = None
    """SGLang's name for request_id."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    spaces_between_special_tokens: bool | None = None

    allowed_token_ids: Any = None
    bad_words: Any = None
    custom_logit_processor: Any = None
    custom_params: Any = None
    early_stopping: Any = None
    length_penalty: Any = None
    lora_path: Any = None
    return_hidden_states: Any = None
    session_params: Any = None
    stop_regex: Any = None
    structural_tag: Any = None
    truncate_prompt_tokens: Any = None
    use_beam_search: Any = None


class ChatRequest(SampledBody, kw_only=True):
    """POST /v1/chat/completions"""

    messages: list[dict[str, Any]]
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    """False: of several calls the first is told."""
    reasoning_effort: str | None = None
    verbosity: str | None = None

    add_generation_prompt: bool | None = None
    """True unless the final message is to be continued."""
    continue_final_message: bool | None = False
    add_special_tokens: bool | None = False
    """Templates write the special tokens themselves."""
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None
    """False: what the model thinks is not told."""
    separate_reasoning: bool | None = None
    """False: what the model thinks stays in the content, tags and all."""
    stream_reasoning: bool | None = None
    """False: a stream tells a thought in one piece."""

    audio: Any = None
    chat_template: Any = None
    function_call: Any = None
    functions: Any = None
    mm_processor_kwargs: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    web_search_options: Any = None


class CompletionRequest(SampledBody, kw_only=True):
    """POST /v1/completions"""

    prompt: Any
    """Text, token ids, or a list of either; `prompt` tells them apart."""
    echo: bool | None = False
    best_of: Int | None = None
    logprobs: Int | None = None
    add_special_tokens: bool | None = True

    prompt_embeds: Any = None
    suffix: Any = None


class GenerateSampling(Body, kw_only=True):
    """`sampling_params` of /generate."""

    max_new_tokens: Int | None = 128
    min_new_tokens: Int | None = 0
    n: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = False
    skip_special_tokens: bool | None = True
    no_stop_trim: bool | None = False
    logit_bias: dict[int, float] | None = None
    sampling_seed: int | None = None
    spaces_between_special_tokens: bool | None = None

    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None

    custom_params: Any = None
    stop_regex: Any = None
    structural_tag: Any = None


class GenerateRequest(Body, kw_only=True):
    """POST /generate, SGLang's own endpoint."""

    text: str | list[str] | None = None
    input_ids: Any = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    stream: bool | None = False
    return_logprob: bool | None = False
    top_logprobs_num: Int | None = 0
    logprob_start_len: Int | None = -1
    """Prompt log-probabilities from this token on; -1 for none of them."""
    return_text_in_logprobs: bool | None = False
    rid: str | None = None
    priority: Int | None = 0
    cache_salt: str | None = None

    audio_data: Any = None
    custom_logit_processor: Any = None
    image_data: Any = None
    input_embeds: Any = None
    lora_path: Any = None
    return_hidden_states: Any = None
    session_params: Any = None
    token_ids_logprob: Any = None
    video_data: Any = None


class TokenizeRequest(Body, kw_only=True):
    """POST /tokenize, with a prompt or with messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    """True for a prompt, false for messages, unless told."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = False
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None

    chat_template: Any = None


class DetokenizeRequest(Body, kw_only=True):
    """POST /detokenize"""

    model: str | None = None
    tokens: list[int]
    skip_special_tokens: bool | None = False
