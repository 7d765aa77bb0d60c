"""What a router sends a running pod: placed requests, streams that resume where another pod was lost."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from tests.decode.reading import Answer, read
from tests.decode.served import Pod
from tests.spawned import await_true, samples

from baton.openai import (
    Delivered,
    EventRelay,
    Had,
    ServedModel,
    read_bookmark,
    read_chat,
    read_completion,
    read_generate,
    ticket_of,
)
from baton.protocol.placed import CONTENT_TYPE, REFUSED_HEADER, Placed, encode
from baton.tiny import model_path

READ = {"chat": read_chat, "completion": read_completion, "generate": read_generate}
SAMPLED = {
    "seed": 5, "temperature": 1.3, "min_p": 0.01, "repetition_penalty": 1.2, "presence_penalty": 0.4,
    "frequency_penalty": 0.3, "logit_bias": {"9": 2.5}, "stop": ["the pod", "qq"], "min_tokens": 6,
}  # fmt: skip
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat, sampled": (
        "chat",
        {"messages": [{"role": "user", "content": "What is a prefill pod?"}], "max_tokens": 60, **SAMPLED},
    ),
    "completion, greedy": (
        "completion",
        {"prompt": "A prefill pod", "max_tokens": 40, "temperature": 0, "logprobs": 2, "echo": True, "n": 2,
         "stop": [" compute"], "ignore_eos": True},
    ),
    "completion, sampled": ("completion", {"prompt": "The cache", "max_tokens": 40, "n": 2, **SAMPLED}),
    "generate": (
        "generate",
        {"text": "The router", "return_logprob": True,
         "sampling_params": {"max_new_tokens": 30, "temperature": 0.9, "sampling_seed": 3}},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return ServedModel.load(model_path(), names=["tiny"], max_length=4096, vocabulary=10**9)


def placed(model: ServedModel, way: str, **more: Any) -> Placed:
    endpoint, body = WAYS[way]
    told = {} if endpoint == "generate" else {"model": "tiny", "return_token_ids": True}
    if endpoint != "generate":
        told["stream_options"] = {"include_usage": True}
    raw = json.dumps({**told, **body, **more, "stream": True}).encode()
    asked = READ[endpoint](raw, model, id="r", created=1).seeded()
    requests = tuple(replace(one, identities=()) for one in asked.requests(16, ""))
    texts = tuple(prompt.text for prompt in asked.prompts)
    return Placed(id="router-1", shape=asked.shape, requests=requests, texts=texts)


def resumed(sent: Placed, delivered: Mapping[int, Delivered]) -> Placed:
    requests = tuple(
        replace(one, generated=tuple(delivered.get(index, Delivered()).token_ids))
        for index, one in enumerate(sent.requests)
    )
    ended = tuple(index for index, one in delivered.items() if one.ended)
    return Placed(
        id=sent.id, shape=sent.shape, requests=requests, texts=sent.texts, ended=ended, resumes=True
    )


def post(http: httpx.Client, sent: Placed) -> httpx.Response:
    return http.post("/placed", content=encode(sent), headers={"content-type": CONTENT_TYPE})


def alike(one: Answer, other: Answer) -> bool:
    """Whether a client got the same; log-probabilities to what arithmetic in another order gives."""
    for answer in (one, other):
        for told in answer.choices.values():
            told.events = 0
    for index, told in one.choices.items():
        assert told.logprobs == pytest.approx(other.choices[index].logprobs, abs=1e-3)
        told.logprobs = other.choices[index].logprobs
    return one == other


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_cut_at_any_byte_goes_on_where_its_client_stands(
    way: str, http: httpx.Client, model: ServedModel
) -> None:
    sent = placed(model, way)
    stream = post(http, sent).content
    whole = read(stream)
    assert whole.done == 1 and all(told.finish for told in whole.choices.values())
    chance = random.Random(way)
    for _ in range(12):
        relay = EventRelay()
        client = relay.feed(stream[: chance.randrange(len(stream))])
        rest = post(http, resumed(sent, relay.resume())).content
        again = chance.choice([len(rest), chance.randrange(len(rest) + 1)])
        client += relay.feed(rest[:again])
        if not relay.done:
            client += relay.feed(post(http, resumed(sent, relay.resume())).content)
        assert relay.done and alike(read(client), read(stream))


def test_what_is_placed_is_answered_as_what_is_asked(http: httpx.Client, model: ServedModel) -> None:
    body = {"prompt": "The cache", "max_tokens": 12, "temperature": 0, "logprobs": 1}
    asked = http.post("/v1/completions", json=body).json()
    sent = placed(model, "completion, greedy", prompt="The cache", max_tokens=12, n=1, echo=False, logprobs=1,
                  stop=None, ignore_eos=False, return_token_ids=False)  # fmt: skip
    whole = post(http, Placed(**{**structure(sent), "shape": replace(sent.shape, stream=False)})).json()
    assert whole["choices"] == asked["choices"]


def structure(sent: Placed) -> dict[str, Any]:
    return {name: getattr(sent, name) for name in sent.__struct_fields__}


def test_a_pod_that_is_killed_loses_nothing_and_one_that_starts_refuses(
    http: httpx.Client, model: ServedModel
) -> None:
    sent = placed(model, "completion, sampled", max_tokens=300, ignore_eos=True, stop=None)
    doomed = Pod()
    try:
        with httpx.Client(base_url=doomed.url, timeout=60) as other:
            refused = post(other, sent)
            assert (refused.status_code, refused.headers[REFUSED_HEADER]) == (503, "starting")
            doomed.await_line("ready")
            relay, client = EventRelay(), b""
            with (
                pytest.raises(httpx.TransportError),
                other.stream(
                    "POST", "/placed", content=encode(sent), headers={"content-type": CONTENT_TYPE}
                ) as answer,
            ):
                for data in answer.iter_raw():
                    client += relay.feed(data)
                    if relay.relayed > 3000 and doomed.process.poll() is None:
                        doomed.process.send_signal(signal.SIGKILL)
            assert not relay.done
        client += relay.feed(post(http, resumed(sent, relay.resume())).content)
        assert relay.done and alike(read(client), read(post(http, sent).content))
    finally:
        doomed.close()


@pytest.mark.parametrize("way", ["chat, sampled", "completion, greedy"])
def test_a_client_that_comes_back_is_told_the_rest(way: str, http: httpx.Client, model: ServedModel) -> None:
    more = {} if way == "chat, sampled" else {"n": 1}
    sent = placed(model, way, **more)
    shape = replace(sent.shape, ticket=ticket_of("req-" + 24 * "0", "model"))

    def ask(had: Had | None) -> bytes:
        return post(http, Placed(**{**structure(sent), "shape": shape, "had": had})).content

    stream = ask(None)
    events = [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]
    places = range(max(1, len(events) - 2))  # a busy machine tells many tokens in one event
    for place in random.Random(way).sample(places, min(5, len(places))):
        had = read_bookmark(events[place].partition(b"\n")[0][4:].decode()).had
        assert alike(read(b"".join(events[: place + 1]) + ask(had)), read(stream))
    other = post(http, Placed(**{**structure(sent), "shape": shape, "had": had._replace(digest=1)}))
    assert other.status_code == 412 and other.json()["error"]["param"] == "Last-Event-ID"
    assert REFUSED_HEADER not in other.headers, "no other pod would say anything else"


def test_a_router_that_leaves_frees_the_engine(http: httpx.Client, model: ServedModel) -> None:
    sent = placed(model, "completion, greedy", max_tokens=3000, stop=None, logprobs=None, echo=False)
    with http.stream(
        "POST", "/placed", content=encode(sent), headers={"content-type": CONTENT_TYPE}
    ) as answer:
        next(answer.iter_raw())
    await_true(lambda: samples(http.get("/metrics").text)["baton_running"] == 0, 10)


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        (b"{}", "application/json", 415, "must be application/vnd.baton.placed"),
        (b"\x80", CONTENT_TYPE, 400, "cannot read a placed request"),
        (b"", CONTENT_TYPE, 400, "body is empty"),
    ],
)
def test_what_is_no_placed_request_is_refused(
    content: bytes, kind: str, status: int, says: str, http: httpx.Client
) -> None:
    answer = http.post("/placed", content=content, headers={"content-type": kind})
    assert answer.status_code == status and says in answer.json()["error"]["message"]
    assert REFUSED_HEADER not in answer.headers, "it may not be sent elsewhere"


def test_nonsense_is_named(http: httpx.Client, model: ServedModel) -> None:
    sent = placed(model, "completion, greedy", n=1)
    (request,) = sent.requests
    for change, field in (
        ({"generated": (1,) * 40}, "generated"),
        ({"generated": (10**6,)}, "requests[0].generated"),
        ({"sampling": replace(request.sampling, logit_bias=((10**6, 1.0),))}, "logit_bias"),
    ):
        answer = post(http, Placed(**{**structure(sent), "requests": (replace(request, **change),)}))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    version = post(http, Placed(**{**structure(sent), "version": 99}))
    assert version.status_code == 400 and "version 99" in version.text


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/generate"])
@pytest.mark.parametrize("stream", [True, False])
def test_when_what_happened_is_told_to_who_asks(endpoint: str, stream: bool, http: httpx.Client) -> None:
    body = {"prompt": "fox", "max_tokens": 4} if endpoint != "/generate" else {"text": "fox"}
    answer = http.post(endpoint, json={**body, "stream": stream}, headers={"x-baton-timeline": "true"})
    (told,) = read(answer.content).timelines if stream else [answer.json()["baton"]]
    names, times = zip(*told["marks"], strict=True)
    assert names[:3] == ("queued", "reserved", "prefill started") and "first token" in names
    assert 0 <= times[0] <= times[-1] < 60_000
    assert told["pod"] and not told["prefill"] and not told["handed"]
    quiet = http.post(endpoint, json={**body, "stream": stream})
    assert b'"baton"' not in quiet.content
