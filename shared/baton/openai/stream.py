"""Formats a sequence's text as the events of a stream, at a few microseconds each.

The decode pod owns one per choice and calls `chunk` whenever text was decided. Everything that does not
change between events is encoded once; only text, ids and log-probabilities are encoded per event. A
resumed sequence goes on from the tokens that its client has: no role, text or token comes twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from baton.core.types import Finish, TokenLogprob
from baton.openai.answer import CHUNK_OBJECT, echoed_scores, finish_object, prompt_text, usage_object
from baton.openai.bookmark import digest_of
from baton.openai.events import cached_of, id_field, sse
from baton.openai.logprobs import chat_logprobs, completion_logprobs, prompt_offsets, scored, top_scored
from baton.openai.said import Reader
from baton.openai.shape import Endpoint, Prompt, Shape, Timeline, Usage
from baton.tokens.tokenizer import Tokenizer

_encode = msgspec.json.Encoder().encode


class ChoiceStream(Protocol):
    def chunk(
        self,
        text: str,
        token_ids: Sequence[int],
        *,
        logprobs: Sequence[TokenLogprob] | None = None,
        offsets: Sequence[int] = (),
        finish: Finish | None = None,
        stop: str | int | None = None,
    ) -> bytes:
        """The event for what came since the last one. `token_ids` are all tokens since then, also those
        whose text is held back; `offsets` says where in the choice's text each begins."""
        ...


def choice_stream(
    shape: Shape,
    tokenizer: Tokenizer,
    usage: Usage,
    *,
    index: int = 0,
    prompt: Prompt | None = None,
    prompt_logprobs: Sequence[TokenLogprob | None] | None = None,
    delivered: Sequence[int] = (),
    delivered_text: str = "",
    anew: bool = False,
) -> ChoiceStream:
    """`usage` holds the prompt's tokens; those generated are counted here. `prompt` is needed for echo and
    return_token_ids, `prompt_logprobs` for an echo with log-probabilities; the first event brings them.
    `delivered` is what the client of a resumed sequence has already; `anew`: another request brought it."""
    cached = ""
    if index % shape.n == 0 and (anew or not delivered):
        cached = cached_of(usage.cached_tokens)
    if shape.endpoint is Endpoint.GENERATE:
        return GenerateStream(shape, tokenizer, usage, index, cached, delivered, delivered_text)
    return OpenAIStream(
        shape, tokenizer, usage, index, cached, prompt, prompt_logprobs, delivered, delivered_text
    )  # fmt: skip


class OpenAIStream:
    """Events of /v1/chat/completions and /v1/completions."""

    __slots__ = (
        "_cached", "_choice", "_close", "_digest", "_echoed", "_extras", "_first", "_head", "_index",
        "_opening", "_plain", "_prompt", "_prompt_logprobs", "_reader", "_sent", "_shape", "_tokenizer",
        "_usage",
    )  # fmt: skip

    def __init__(
        self,
        shape: Shape,
        tokenizer: Tokenizer,
        usage: Usage,
        index: int,
        cached: str,
        prompt: Prompt | None,
        prompt_logprobs: Sequence[TokenLogprob | None] | None,
        delivered: Sequence[int],
        delivered_text: str,
    ) -> None:
        self._shape = shape
        self._tokenizer = tokenizer
        self._usage = usage
        self._index = index
        self._prompt = prompt
        self._prompt_logprobs = prompt_logprobs if shape.echo else None
        self._echoed = prompt_text(prompt, tokenizer) if shape.echo and prompt is not None else ""
        self._sent = len(delivered)
        self._digest = digest_of(delivered)
        self._cached = cached
        self._first = not delivered
        self._reader = None if shape.plain else Reader(shape, index)
        if self._reader is not None:
            self._reader.feed(delivered_text)
        chat = shape.endpoint is Endpoint.CHAT
        top = _encode(
            {
                "id": shape.id,
                "object": CHUNK_OBJECT[shape.endpoint],
                "created": shape.created,
                "model": shape.model,
            }
        )
        self._choice = choice = b'data: %b,"choices":[{"index":%d,' % (top[:-1], index)
        self._head = choice + (b'"delta":{"content":' if chat else b'"text":')
        self._opening = choice + b'"delta":{"role":"assistant","content":' if chat else self._head
        self._close = b"}" if chat else b""
        # The end of an event that brings nothing but text, which nearly all do.
        end = b',"usage":null}\n\n' if shape.include_usage else b"}\n\n"
        self._plain = b',"logprobs":null,"finish_reason":null}]' + end
        self._extras = shape.return_token_ids or shape.usage_in_chunks

    def chunk(
        self,
        text: str,
        token_ids: Sequence[int],
        *,
        logprobs: Sequence[TokenLogprob] | None = None,
        offsets: Sequence[int] = (),
        finish: Finish | None = None,
        stop: str | int | None = None,
    ) -> bytes:
        start = self._sent
        self._sent += len(token_ids)
        field = id_field(
            token_ids, self._index, start, finish is not None, cached=self._cached,
            bookmark=self._bookmark(token_ids),
        )  # fmt: skip
        self._cached = self._cached if not field else ""
        if not self._first and finish is None and logprobs is None and not self._extras:
            return b"".join((field, *self._said(text), self._plain))
        parts = [field, *self._said(text, finish is not None)]
        parts += (b',"logprobs":', _encode(self._logprobs(logprobs, offsets)))
        reason = finish if self._reader is None else self._reader.finish(finish)
        parts += (b',"finish_reason":', _encode(reason))
        if finish is not None:
            parts += (b',"stop_reason":', _encode(stop))
        parts += self._token_ids(token_ids)
        parts += (b"}]", self._usage_now(), b"}\n\n")
        self._first = False
        return b"".join(parts)

    def _said(self, text: str, last: bool = False) -> tuple[bytes, ...]:
        """The event as far as its text."""
        if self._reader is not None:
            said = self._reader.feed(text, last)
            delta: dict[str, Any] = {"role": "assistant", "content": said.content} if self._first else {}
            delta |= {"reasoning_content": said.thought} if said.thought else {}
            delta |= {"content": said.content} if said.content else {}
            if said.calls:
                first = self._reader.called - len(said.calls)
                delta["tool_calls"] = [{"index": first + i, **call} for i, call in enumerate(said.calls)]
            return self._choice, b'"delta":', _encode(delta)
        if self._first:
            return self._opening, _encode(self._echoed + text), self._close
        return self._head, _encode(text), self._close

    def _bookmark(self, token_ids: Sequence[int]) -> str:
        if not self._shape.ticket:
            return ""
        self._digest = digest_of(token_ids, self._digest)
        return f"{self._shape.ticket}.{self._digest:08x}/"

    def _logprobs(self, logprobs: Sequence[TokenLogprob] | None, offsets: Sequence[int]) -> Any:
        shape, prompt = self._shape, self._prompt
        if shape.endpoint is Endpoint.CHAT:
            return None if logprobs is None else chat_logprobs(logprobs, self._tokenizer, shape)
        tokens: list[TokenLogprob | int] = list(logprobs or ())
        places = [len(self._echoed) + offset for offset in offsets]
        if self._first and prompt is not None and self._prompt_logprobs is not None:
            tokens = [*echoed_scores(prompt, self._prompt_logprobs), *tokens]
            places = prompt_offsets(prompt, self._tokenizer) + places
        elif logprobs is None:
            return None
        return completion_logprobs(tokens, places, self._tokenizer, shape)

    def _token_ids(self, token_ids: Sequence[int]) -> list[bytes]:
        if not self._shape.return_token_ids:
            return []
        parts = [b',"token_ids":', _encode(list(token_ids))]
        if self._first and self._prompt is not None:
            parts += (b',"prompt_token_ids":', _encode(self._prompt.token_ids))
        return parts

    def _usage_now(self) -> bytes:
        if self._shape.usage_in_chunks:
            return b',"usage":' + _encode(usage_object(_counted(self._usage, self._sent)))
        return b',"usage":null' if self._shape.include_usage else b""


class GenerateStream:
    """Events of /generate: each holds the whole text so far, as SGLang's do."""

    __slots__ = ("_cached", "_ids", "_index", "_scores", "_shape", "_text", "_tokenizer", "_tops", "_usage")

    def __init__(
        self,
        shape: Shape,
        tokenizer: Tokenizer,
        usage: Usage,
        index: int,
        cached: str,
        delivered: Sequence[int],
        delivered_text: str,
    ) -> None:
        self._shape = shape
        self._tokenizer = tokenizer
        self._usage = usage
        self._index = index
        self._cached = cached
        self._ids = list(delivered)
        self._text = delivered_text
        # Of tokens that came from elsewhere nothing is known but their ids.
        self._scores: list[Any] = [
            (None, token_id, tokenizer.token_text(token_id) if shape.logprob_text else None)
            for token_id in delivered
        ]
        self._tops: list[Any] = [None] * len(delivered)

    def chunk(
        self,
        text: str,
        token_ids: Sequence[int],
        *,
        logprobs: Sequence[TokenLogprob] | None = None,
        offsets: Sequence[int] = (),
        finish: Finish | None = None,
        stop: str | int | None = None,
    ) -> bytes:
        start = len(self._ids)
        self._ids += token_ids
        self._text += text
        usage = _counted(self._usage, len(self._ids))
        meta: dict[str, Any] = {
            "id": self._shape.id,
            "finish_reason": finish_object(finish, stop, usage),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        }
        if logprobs is not None:
            self._scores += scored(logprobs, self._tokenizer, self._shape)
            self._tops += top_scored(logprobs, self._tokenizer, self._shape)
            meta["output_token_logprobs"] = self._scores
            meta["output_top_logprobs"] = self._tops
        body: dict[str, Any] = {"text": self._text, "output_ids": self._ids, "meta_info": meta}
        if self._shape.batched or self._shape.n > 1:
            body["index"] = self._index
        event = sse(_encode(body), token_ids, self._index, start, finish is not None, self._cached)
        self._cached = ""
        return event


def usage_event(shape: Shape, usage: Usage) -> bytes:
    """The event after the last choice's, where the client asked for it."""
    body = {
        "id": shape.id,
        "object": CHUNK_OBJECT[shape.endpoint],
        "created": shape.created,
        "model": shape.model,
        "choices": [],
        "usage": usage_object(usage),
    }
    return sse(_encode(body))


def timeline_event(shape: Shape, timeline: Timeline) -> bytes:
    """The last event. /generate's has no form that it could keep to: it tells nothing else."""
    if shape.endpoint is Endpoint.GENERATE:
        return sse(_encode({"baton": timeline}))
    about = {"id": shape.id, "object": CHUNK_OBJECT[shape.endpoint], "created": shape.created}
    return sse(_encode({**about, "model": shape.model, "choices": [], "baton": timeline}))


def _counted(usage: Usage, generated: int) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens, completion_tokens=generated, cached_tokens=usage.cached_tokens
    )
