"""Asks an OpenAI server for one streamed answer at a time. Knows nothing of terminals or history."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from baton.cli.typed import address
from baton.core.errors import Failed, InvalidRequest, PeerLost, Refused

CONNECT_S = 5.0
SILENT_S = 120.0
"""How long a server may say nothing before it counts as gone."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Sampling:
    """None leaves it to the server."""

    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def fields(self) -> dict[str, Any]:
        given = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event brought."""

    text: str = ""
    thought: str = ""
    """Of a model that reasons before it answers."""


@dataclass(slots=True)
class Tally:
    """What an answer took; filled while it comes. Seconds count from asking."""

    first_s: float = 0.0
    last_s: float = 0.0
    pieces: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    """None where the server does not say."""
    tokens: int = 0
    """0 where the server does not say."""
    finish: str = ""
    served: str = ""
    """Who computed it, where a Baton server says."""

    @property
    def rate(self) -> float:
        """Tokens a second after the first; where tokens are not told, events stand for them."""
        count = (self.tokens or self.pieces) - 1
        spent = self.last_s - self.first_s
        return count / spent if spent > 0 and count > 0 else 0.0


class Client:
    """Use as `with`."""

    def __init__(self, url: str, key: str, model: str, sampling: Sampling) -> None:
        self.url = address(url)
        self._model = model
        self._sampling = sampling
        timeout = httpx.Timeout(SILENT_S, connect=CONNECT_S)
        headers = {"authorization": f"Bearer {key}", "x-baton-explain": "true", "x-baton-timeline": "true"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    @property
    def model(self) -> str:
        """The one asked for, or the first that the server lists. Asks the server once."""
        if not self._model:
            self._model = self._first_model()
        return self._model

    def _first_model(self) -> str:
        try:
            answer = self._http.get("/v1/models")
        except httpx.HTTPError as error:
            raise PeerLost(
                f"no server answers on {self.url} ({_why(error)}); is it running? `baton up` starts one"
            ) from error
        _check(answer.status_code, answer.content)
        try:
            return str(answer.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise Failed(f"{self.url} lists no model; name one with --model") from error

    def ask(self, messages: Sequence[Message], tally: Tally) -> Iterator[Piece]:
        """Yields the answer as it comes. Raises when it does not come to its end."""
        body = {
            "model": self.model, "messages": list(messages), "stream": True,
            "stream_options": {"include_usage": True}, **self._sampling.fields(),
        }  # fmt: skip
        began = time.perf_counter()
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    _check(answer.status_code, answer.read())
                tally.served = served(answer.headers)
                for line in answer.iter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    piece = _read(data, tally)
                    if piece.text or piece.thought:
                        tally.last_s = time.perf_counter() - began
                        tally.first_s = tally.first_s or tally.last_s
                        tally.pieces += 1
                        yield piece
        except httpx.HTTPError as error:
            raise PeerLost(f"the server was lost: {_why(error)}") from error
        raise Failed("the stream ended before its end was said")


def served(headers: httpx.Headers) -> str:
    """Who computed an answer: `prefill-0 → decode-1`, as far as its headers tell."""
    prefill = headers.get("x-baton-prefill", "").partition(",")[0]
    return " → ".join(filter(None, ("" if prefill == "local" else prefill, headers.get("x-baton-decode"))))


def _read(data: str, tally: Tally) -> Piece:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise Failed(f"the server sent what is no JSON: {data[:80]!r}") from error
    if "error" in event:
        raise Failed(_told(event) or "the server failed")
    if told := event.get("baton"):
        tally.served = " → ".join(filter(None, (told.get("prefill"), told.get("pod")))) or tally.served
    if usage := event.get("usage"):
        tally.prompt_tokens = usage.get("prompt_tokens") or 0
        tally.tokens = usage.get("completion_tokens") or 0
        details = usage.get("prompt_tokens_details") or {}
        tally.cached_tokens = details.get("cached_tokens")
    if not event.get("choices"):
        return Piece()
    choice = event["choices"][0]
    tally.finish = choice.get("finish_reason") or tally.finish
    delta = choice.get("delta") or {}
    return Piece(delta.get("content") or "", delta.get("reasoning_content") or "")


def _check(status: int, body: bytes) -> None:
    if status == 200:
        return
    try:
        message = _told(json.loads(body))
    except ValueError:
        message = body[:200].decode(errors="replace")
    message = f"{message or 'no reason given'} (HTTP {status})"
    if status in (429, 503):
        raise Refused(message)
    if 400 <= status < 500:
        raise InvalidRequest(message)
    raise Failed(message)


def _told(event: Any) -> str:
    """The sentence in an OpenAI error body, or in one of its many cousins."""
    error = event.get("error", event) if isinstance(event, dict) else event
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or "")
    return str(error)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
