"""The description holds for what is really written and read."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from baton.core.errors import BatonError, QueueFull
from baton.core.types import Finish, TokenLogprob
from baton.openai import (
    Choice,
    Endpoint,
    Prompt,
    ServedModel,
    Shape,
    Timeline,
    Usage,
    choice_stream,
    description,
    detokenize,
    error_body,
    error_event,
    model_list,
    model_told,
    response,
    timeline_event,
    tokenize,
    usage_event,
)
from baton.openai.requests import REFUSED, Body

PATHS = {
    Endpoint.CHAT: "/v1/chat/completions",
    Endpoint.COMPLETION: "/v1/completions",
    Endpoint.GENERATE: "/generate",
}
SCORE = TokenLogprob(token_id=40, logprob=-0.5, rank=1, top=((40, -0.5), (41, -1.5)))
USAGE = Usage(prompt_tokens=2, completion_tokens=1)
TIMELINE = Timeline(pod="d", marks=(("queued", 0.1), ("merged", 2.0)), prefill="p", cached=1, handed=96)


def told(guarded: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(description.describe("1.2", description.ENDPOINTS, guarded=guarded))
    return made


def check(body: bytes, schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(body), {**schema, "components": told()["components"]})


def answered(path: str, kind: str = description.JSON, status: int = 200) -> dict[str, Any]:
    (operation,) = told()["paths"][path].values()
    content: dict[str, Any] = operation["responses"][str(status)]["content"][kind]
    return content


def choice(full: bool) -> Choice:
    more: dict[str, Any] = {"logprobs": (SCORE,), "offsets": (0,), "prompt_logprobs": (None, SCORE)}
    return Choice(
        index=0,
        text="x",
        token_ids=(40,),
        finish=Finish.STOP,
        usage=USAGE,
        prompt=Prompt((7, 8)),
        **(more if full else {}),
    )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("endpoint", PATHS)
def test_whole_answers(endpoint: Endpoint, full: bool, model: ServedModel) -> None:
    shape = Shape(endpoint=endpoint, id="x", model="m", created=5, return_token_ids=full, logprob_text=full)
    body = response(shape, [choice(full)], model.tokenizer, TIMELINE if full else None)
    check(body, answered(PATHS[endpoint])["schema"])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("endpoint", PATHS)
def test_every_event_of_a_stream(endpoint: Endpoint, full: bool, model: ServedModel) -> None:
    shape = Shape(
        endpoint=endpoint, id="x", model="m", created=5, stream=True, include_usage=True, n=2,
        usage_in_chunks=full, return_token_ids=full, echo=full and endpoint is Endpoint.COMPLETION,
    )  # fmt: skip
    stream = choice_stream(
        shape,
        model.tokenizer,
        usage=USAGE,
        prompt=Prompt((7, 8)),
        prompt_logprobs=(None, SCORE) if full else None,
    )
    scores = {"logprobs": [SCORE], "offsets": [0]} if full else {}
    events = [
        stream.chunk("a", [40], **scores),
        stream.chunk("b", [40], **scores),
        stream.chunk("c", [40], finish=Finish.STOP, stop="c", **scores),
    ]
    if endpoint is not Endpoint.GENERATE:
        events.append(usage_event(shape, USAGE))
    events += [timeline_event(shape, TIMELINE), error_event(QueueFull("later"))]
    data = answered(PATHS[endpoint], description.EVENTS)["schema"]["properties"]["data"]
    done, content = data["anyOf"]
    assert done == {"const": "[DONE]"}
    for event in events:
        check(event.partition(b"data: ")[2], content["contentSchema"])


def test_the_other_answers(model: ServedModel) -> None:
    tokens = tokenize(b'{"prompt": "ab", "return_token_strs": true}', model)
    check(tokens, answered("/tokenize")["schema"])
    check(detokenize(b'{"tokens": [40]}', model), answered("/detokenize")["schema"])
    check(model_list(model), answered("/v1/models")["schema"])
    check(model_told(model, model.names[0]), answered("/v1/models/{model}")["schema"])


@pytest.mark.parametrize("error", [QueueFull("later"), BatonError("what"), ValueError("never shown")])
def test_failures(error: Exception) -> None:
    check(error_body(error), answered("/v1/completions", status=429)["schema"])


def test_what_is_refused_is_not_offered_and_all_else_is() -> None:
    components = told()["components"]["schemas"]
    for one in description.ENDPOINTS.values():
        if one.body is not None:
            assert issubclass(one.body, Body)
            offered = set(components[one.body.__name__]["properties"])
            assert offered == set(one.body.__struct_fields__) - set(REFUSED)


def test_a_key_is_asked_for_where_there_are_keys() -> None:
    assert "security" not in told()
    assert told(guarded=True)["security"] == [{"key": []}]


def test_it_says_its_version() -> None:
    assert told()["info"]["version"] == "1.2"
    assert msgspec.json.decode(description.describe("1", ["/tokenize"], guarded=False))["paths"].keys() == {
        "/tokenize"
    }
