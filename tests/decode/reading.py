"""What a client makes of a stream's bytes: per choice its text, tokens and end, however they were grouped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Told:
    """One choice, put together."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    prompt_token_ids: list[int] | None = None
    finish: Any = None
    stop: Any = None
    roles: int = 0
    events: int = 0
    tokens: list[str] = field(default_factory=list)
    """Of the log-probabilities, as the three forms name them."""
    logprobs: list[float | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


@dataclass
class Answer:
    choices: dict[int, Told] = field(default_factory=dict)
    usage: list[tuple[int, int]] = field(default_factory=list)
    """(prompt, completion tokens) of each event that says so for the whole."""
    timelines: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0


def read(stream: bytes) -> Answer:
    answer = Answer()
    assert stream.endswith(b"\n\n") or not stream
    for event in stream.decode().split("\n\n")[:-1]:
        data = next(line for line in event.split("\n") if line.startswith("data: "))[6:]
        if data == "[DONE]":
            answer.done += 1
            continue
        body = json.loads(data)
        assert "error" not in body, body
        if "meta_info" in body:
            _generated(answer.choices.setdefault(body.get("index", 0), Told()), body)
        for choice in body.get("choices", ()):
            _chunk(answer.choices.setdefault(choice["index"], Told()), choice)
        if body.get("usage") and not body["choices"]:
            answer.usage.append((body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]))
        if body.get("baton"):
            answer.timelines.append(body["baton"])
    return answer


def _chunk(told: Told, choice: dict[str, Any]) -> None:
    assert told.finish is None, "an event after the end"
    told.events += 1
    delta = choice.get("delta", {})
    told.roles += "role" in delta
    told.text += delta.get("content", "") + choice.get("text", "")
    told.token_ids += choice.get("token_ids", ())
    told.prompt_token_ids = choice.get("prompt_token_ids", told.prompt_token_ids)
    told.finish, told.stop = choice["finish_reason"], choice.get("stop_reason")
    scores = choice.get("logprobs") or {}
    told.tokens += scores.get("tokens") or [one["token"] for one in scores.get("content", ())]
    told.logprobs += scores.get("token_logprobs") or [one["logprob"] for one in scores.get("content", ())]
    told.offsets += scores.get("text_offset", ())


def _generated(told: Told, body: dict[str, Any]) -> None:
    assert told.finish is None, "an event after the end"
    told.events += 1
    assert body["text"].startswith(told.text) and body["output_ids"][: len(told.token_ids)] == told.token_ids
    told.text, told.token_ids = body["text"], body["output_ids"]
    meta = body["meta_info"]
    assert meta["completion_tokens"] == len(told.token_ids)
    if "output_token_logprobs" in meta:
        assert [one[1] for one in meta["output_token_logprobs"]] == told.token_ids
        assert len(meta["output_top_logprobs"]) == len(told.token_ids)
    told.finish = meta["finish_reason"]
