"""The answers that clients get, field by field: what `answer` and `stream` write, as types.

They describe and are never filled on the way of a request: `description` makes schemas of them, and tests
hold real answers against those. A field that comes only when it was asked for has a default.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from baton.openai.shape import Timeline

FinishReason = Literal["stop", "length", "abort", "error"]
ChatFinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]


class Told(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all answers: what is not written here is not sent."""


class PromptDetails(Told, kw_only=True):
    cached_tokens: int


class UsageTold(Told, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Function(Told, kw_only=True):
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class ToolCall(Told, kw_only=True):
    id: str
    type: Literal["function"]
    function: Function


class ToolCallDelta(ToolCall, kw_only=True):
    index: int


class ChatMessage(Told, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | msgspec.UnsetType | None = msgspec.UNSET
    """What a model that thinks thought before."""
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class Likely(Told, kw_only=True):
    token: str
    logprob: float
    bytes: list[int] | None


class Scored(Likely, kw_only=True):
    top_logprobs: list[Likely]


class ChatScores(Told, kw_only=True):
    content: list[Scored] | None
    refusal: list[Scored] | None


class ChatChoice(Told, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatScores | None
    finish_reason: ChatFinishReason
    stop_reason: str | int | None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class Answer(Told, kw_only=True):
    id: str
    created: int
    model: str
    baton: Timeline | msgspec.UnsetType = msgspec.UNSET
    """Which pods served it and when, where that was asked for."""


class ChatCompletion(Answer, kw_only=True):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: UsageTold
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: list[dict[str, Any] | None] | msgspec.UnsetType = msgspec.UNSET


class ChatDelta(Told, kw_only=True):
    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType | None = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCallDelta] | msgspec.UnsetType = msgspec.UNSET
    """Each comes whole."""


class ChatChunkChoice(Told, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatScores | None = None
    finish_reason: ChatFinishReason | None
    stop_reason: str | int | msgspec.UnsetType | None = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatChunk(Answer, kw_only=True):
    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: UsageTold | msgspec.UnsetType | None = msgspec.UNSET


class CompletionScores(Told, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Told, kw_only=True):
    index: int
    text: str
    logprobs: CompletionScores | None
    finish_reason: FinishReason | None
    stop_reason: str | int | msgspec.UnsetType | None = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: list[dict[str, Any] | None] | msgspec.UnsetType = msgspec.UNSET


class Completion(Answer, kw_only=True):
    """Also each chunk of a stream."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: UsageTold | msgspec.UnsetType | None = msgspec.UNSET


class MetaInfo(Told, kw_only=True):
    id: str
    finish_reason: dict[str, Any] | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    output_token_logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET
    output_top_logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET
    input_token_logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET
    input_top_logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET


class Generated(Told, kw_only=True):
    text: str
    output_ids: list[int]
    meta_info: MetaInfo
    index: int | msgspec.UnsetType = msgspec.UNSET
    """In a stream of several answers: which of them this belongs to."""
    baton: Timeline | msgspec.UnsetType = msgspec.UNSET
    """Of a whole answer; the first, where there are several."""


class Timed(Told, kw_only=True):
    """The last event of a stream of /generate, where a timeline was asked for."""

    baton: Timeline


class Tokenized(Told, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | msgspec.UnsetType = msgspec.UNSET


class Detokenized(Told, kw_only=True):
    prompt: str


class Model(Told, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(Told, kw_only=True):
    object: Literal["list"]
    data: list[Model]


class Failure(Told, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class FailureBody(Told, kw_only=True):
    error: Failure
