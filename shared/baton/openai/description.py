"""GET /openapi.json: what a service takes and answers, as an OpenAPI 3.1 document.

Requests are described by the very types that read them, answers by types that tests hold them against. A
field that is known and refused is not in it, nor what operators and probes ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from baton.openai.answers import (
    ChatChunk,
    ChatCompletion,
    Completion,
    Detokenized,
    FailureBody,
    Generated,
    Model,
    ModelList,
    Timed,
    Tokenized,
)
from baton.openai.requests import (
    REFUSED,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    TokenizeRequest,
)

PATH = "/openapi.json"
JSON = "application/json"
EVENTS = "text/event-stream"
KEY = "key"

_MISTAKES = (400, 401, 404, 405, 408, 412, 413, 415, 431)
"""A client's, at any POST."""
_REFUSALS = (429, 503, 504)
"""The service's, each with the reason in `code`; 429 and 503 say in Retry-After when to come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One endpoint."""

    summary: str
    answer: Any
    """Type of a whole answer."""
    body: type[msgspec.Struct] | None = None
    """What is posted; None for a GET."""
    parameter: str = ""
    """What the path names, if it does."""
    chunks: tuple[type[msgspec.Struct], ...] = ()
    """Types of a stream's events, where it has them; one that fails ends with a failure besides."""
    refusals: tuple[int, ...] = ()


def _generates(
    summary: str, body: type[msgspec.Struct], answer: Any, *chunks: type[msgspec.Struct]
) -> Described:
    return Described(summary=summary, body=body, answer=answer, chunks=chunks, refusals=_REFUSALS)


ENDPOINTS: Mapping[str, Described] = {
    "/v1/chat/completions": _generates(
        "The next message of a conversation", ChatRequest, ChatCompletion, ChatChunk
    ),
    "/v1/completions": _generates("What follows a prompt", CompletionRequest, Completion, Completion),
    "/generate": _generates(
        "SGLang's own form of a completion", GenerateRequest, Generated | list[Generated], Generated, Timed
    ),
    "/tokenize": Described(
        summary="The tokens of a prompt or of a conversation",
        body=TokenizeRequest,
        answer=Tokenized,
        refusals=_REFUSALS,
    ),
    "/detokenize": Described(
        summary="The text of tokens", body=DetokenizeRequest, answer=Detokenized, refusals=_REFUSALS
    ),
    "/v1/models": Described(summary="The names of the model", answer=ModelList, refusals=(429, 503)),
    "/v1/models/{model}": Described(
        summary="One name of the model", answer=Model, parameter="model", refusals=(404, 429, 503)
    ),
}


def describe(version: str, paths: Iterable[str], *, guarded: bool) -> bytes:
    """Of a service that has these of `ENDPOINTS`. `guarded`: it asks for keys."""
    chosen = {path: ENDPOINTS[path] for path in paths}
    types: list[Any] = [FailureBody]
    for one in chosen.values():
        types += [kind for kind in (one.body, one.answer, *one.chunks) if kind is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    of = dict(zip(map(repr, types), schemas, strict=True))
    for kind in {one.body for one in chosen.values()} - {None}:
        assert kind is not None
        for name in REFUSED:
            components[kind.__name__]["properties"].pop(name, None)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Baton",
            "version": version,
            "description": "OpenAI's API, with the extra sampling fields of vLLM and SGLang.",
        },
        "paths": {path: _path(one, of) for path, one in chosen.items()},
        "components": {"schemas": components},
    }
    if guarded:
        made["components"]["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
        made["security"] = [{KEY: []}]
    return msgspec.json.encode(made)


def _event(kinds: list[Any]) -> dict[str, Any]:
    """One event of a stream."""
    about = "JSON, but for the last event of a stream that ended well, which says [DONE]."
    content = {"contentMediaType": JSON, "contentSchema": {"anyOf": kinds}}
    data = {"type": "string", "description": about, "anyOf": [{"const": "[DONE]"}, content]}
    fields = {"id": {"type": "string"}, "event": {"type": "string"}, "data": data}
    return {"type": "object", "properties": fields, "required": ["data"]}


def _path(one: Described, of: Mapping[str, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": of[repr(one.answer)]}}
    if one.chunks:
        content[EVENTS] = {"schema": _event([of[repr(kind)] for kind in (*one.chunks, FailureBody)])}
    failure = {JSON: {"schema": of[repr(FailureBody)]}}
    statuses = (*_MISTAKES, *one.refusals) if one.body is not None else (401, 405, 431, *one.refusals)
    responses: dict[str, Any] = {"200": {"description": "OK", "content": content}}
    for status in statuses:
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": failure}
    made: dict[str, Any] = {"summary": one.summary, "responses": responses}
    if one.parameter:
        string = {"type": "string", "minLength": 1}
        made["parameters"] = [{"name": one.parameter, "in": "path", "required": True, "schema": string}]
    if one.body is None:
        return {"get": made}
    made["requestBody"] = {"required": True, "content": {JSON: {"schema": of[repr(one.body)]}}}
    return {"post": made}
