"""How an answer must look, and what goes into it: the values between an engine's tokens and the wire.

`Shape` is fixed when a request is read and travels with it to whichever pod formats the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from baton.core.types import Finish, TokenLogprob
from baton.openai.calls import Style
from baton.openai.reasoning import Reasoning


class Endpoint(Enum):
    CHAT = "chat"
    COMPLETION = "completion"
    GENERATE = "generate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    endpoint: Endpoint
    id: str
    """The answer's id, as the client sees it."""
    model: str
    created: int
    """Unix time in seconds."""
    n: int = 1
    """Choices per prompt: choice i belongs to prompt i // n."""
    stream: bool = False
    include_usage: bool = False
    """A last event with the usage of the whole request."""
    usage_in_chunks: bool = False
    echo: bool = False
    return_token_ids: bool = False
    tokens_as_ids: bool = False
    """Log-probabilities name tokens "token_id:123"."""
    batched: bool = False
    """/generate: the prompts came as a list, so the answer is one too."""
    logprob_text: bool = False
    """/generate: log-probabilities come with their tokens' text."""
    reasoning: Reasoning | None = None
    """Chat: what the model thinks is told apart from what it answers, where that begins so."""
    thoughts: bool = True
    """What is told apart as thought is told at all."""
    thought_whole: bool = False
    """A stream tells it in one piece, when it has ended."""
    calls: Style | None = None
    """Chat: calls of tools, so written, are told apart from the text."""
    tools: tuple[str, ...] = ()
    """By name, where nothing but the name tells a call from other JSON."""
    one_call: bool = False
    """Of those only the first is told."""
    ticket: str = ""
    """What begins the ids of the events, so that the client may come back with one; empty for an answer that
    cannot be continued."""
    logprob_start: int = 0
    """/generate: the first prompt token whose log-probability is wanted."""

    @property
    def plain(self) -> bool:
        """The text is told as it is."""
        return self.reasoning is None and self.calls is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt's, how many were not computed again."""

    @classmethod
    def total(cls, choices: Sequence[Usage], n: int) -> Usage:
        """Of all choices of a request, in order: the n choices of a prompt share its tokens."""
        return cls(
            prompt_tokens=sum(usage.prompt_tokens for usage in choices[::n]),
            completion_tokens=sum(usage.completion_tokens for usage in choices),
            cached_tokens=sum(usage.cached_tokens for usage in choices[::n]),
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    token_ids: tuple[int, ...]
    text: str | None = None
    """The text it was made of; None when the client sent token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One finished sequence."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    usage: Usage
    stop: str | int | None = None
    """The stop string or the token id that ended it; None for the model's own end of text."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One per token, where they were asked for."""
    offsets: tuple[int, ...] = ()
    """Where in the text each token begins; needed with logprobs of completions."""
    prompt: Prompt | None = None
    """Needed for echo, return_token_ids and prompt_logprobs."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One per token of the prompt; the first token has none."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When what happened to a request, in milliseconds since the pod took it, in order. Told as it is."""

    pod: str
    """Who answers."""
    marks: tuple[tuple[str, float], ...]
    prefill: str
    """Who computed the prompt; empty for the pod itself."""
    cached: int
    """Prompt tokens that were not computed again, anywhere."""
    handed: int
    """Bytes that were written into this pod."""
