"""OpenAI's own client against a running router: what it asks, what it reads, which errors it raises."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.router.stage import Router, Stage, expected, prompt_ids
from tests.spawned import eventually

import openai
from baton.testing.simulated import SimulatedWorker, Timing
from baton.tokens import page_identities, root_salt

TALK: Any = [{"role": "user", "content": "The quick brown fox"}]
PROMPT = prompt_ids("The quick brown fox")
GREEDY: dict[str, Any] = {"temperature": 0.0}


@pytest.fixture
def client(router: Router, workers: list[SimulatedWorker]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


def test_a_chat_and_its_stream_agree(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=TALK, max_tokens=24, **GREEDY)
    assert whole.choices[0].message.content == expected(PROMPT, 24)
    usage: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(
        client.chat.completions.create(model="tiny", messages=TALK, max_tokens=24, **usage, **GREEDY)
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == expected(PROMPT, 24)
    assert [delta.role for delta in deltas].count("assistant") == 1
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert whole.usage.prompt_tokens == len(PROMPT)


def test_batches_choices_and_token_ids(client: openai.OpenAI) -> None:
    made = client.completions.create(model="tiny", prompt=[[1, 2, 3], [4, 5]], max_tokens=5, n=2, seed=9)
    texts = [choice.text for choice in made.choices]
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3] and len(set(texts)) == 4
    again = client.completions.create(model="tiny", prompt=[[1, 2, 3], [4, 5]], max_tokens=5, n=2, seed=9)
    assert [choice.text for choice in again.choices] == texts
    assert made.usage is not None and made.usage.prompt_tokens == 5 and made.usage.completion_tokens == 20


def test_what_is_the_client_s_mistake_is_named(client: openai.OpenAI) -> None:
    def refused(kind: type[openai.APIStatusError], **body: Any) -> openai.APIStatusError:
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**{"model": "tiny", "messages": TALK, **body})
        return caught.value

    assert refused(openai.BadRequestError, temperature=-1).param == "temperature"
    assert refused(openai.BadRequestError, extra_body={"colour": 1}).code == "unknown_parameter"
    assert refused(openai.NotFoundError, model="gpt-5").code == "model_not_found"
    long = refused(openai.BadRequestError, max_tokens=5000)
    assert long.code == "context_length_exceeded" and "4096" in str(long) and "5000" in str(long)
    assert refused(openai.BadRequestError, messages=[]).response.headers["x-baton-reason"]


def test_many_prompts_may_be_longer_together_than_the_model_s_length(client: openai.OpenAI) -> None:
    prompts = [list(range(7, 1007))] * 9
    made = client.completions.create(model="tiny", prompt=prompts, max_tokens=1, **GREEDY)
    assert [choice.index for choice in made.choices] == list(range(9))
    assert made.usage and made.usage.prompt_tokens == 9000


def test_the_models_and_the_tokenizer_answer(client: openai.OpenAI, http: httpx.Client) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny" and model.to_dict()["max_model_len"] == 4096
    ids = http.post("/tokenize", json={"prompt": "hello there"}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == "hello there"
    told = http.post("/generate", json={"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 4}})
    assert told.status_code == 200 and len(told.json()["output_ids"]) == 4


def test_many_at_once_by_the_async_client(router: Router, workers: list[SimulatedWorker]) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> None:
        text = f"question {number}"
        stream: Any = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": text}], max_tokens=20, stream=True, **GREEDY
        )
        content = ""
        async for chunk in stream:
            content += chunk.choices[0].delta.content or ""
        assert content == expected(prompt_ids(text), 20)

    async def all_of_them() -> None:
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:
            await asyncio.gather(*(one(client, number) for number in range(60)))

    asyncio.run(all_of_them())
    assert all(worker.counts["completed"] for worker in workers), "both had some"


def test_the_reasons_of_a_placement_are_told_to_who_asks(
    http: httpx.Client, workers: list[SimulatedWorker]
) -> None:
    body = {"messages": TALK, "max_tokens": 3}
    plain = http.post("/v1/chat/completions", json=body)
    asked = http.post("/v1/chat/completions", json=body, headers={"x-baton-explain": "true"})
    http.post("/v1/chat/completions", json=body, headers={"x-baton-timeline": "true"})
    assert sum(placed.timeline for worker in workers for placed in worker.received) == 1
    assert "x-baton-decode" not in plain.headers
    assert asked.headers["x-baton-decode"] in ("w1", "w2") and asked.headers["x-baton-prefill"] == "local"
    assert float(asked.headers["x-baton-predicted-ttft-ms"]) >= 0
    newest = http.get("/debug/placements").json()["placements"][1]
    assert newest["request"] == asked.headers["x-request-id"] and newest["outcome"] == "completed"
    assert {one["decode"] for one in newest["candidates"]} == {"w1", "w2"}


def test_a_prompt_goes_back_to_where_its_prefix_is(
    http: httpx.Client, workers: list[SimulatedWorker]
) -> None:
    """By the events that workers write to Redis."""
    long = list(range(1, 1601))

    def ask() -> httpx.Response:
        body = {"prompt": long, "max_tokens": 1}
        return http.post("/v1/completions", json=body, headers={"x-baton-explain": "true"})

    first = ask()

    def indexed() -> int:
        return sum(one["pages_indexed"] for one in http.get("/debug/fleet").json()["workers"])

    eventually(lambda: indexed() >= 100)
    for _ in range(4):
        again = ask()
        assert again.headers["x-baton-decode"] == first.headers["x-baton-decode"]
        assert int(again.headers["x-baton-expected-cached-tokens"]) >= 1584
        assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= 1584


def cached_tokens(http: httpx.Client) -> float:
    found = re.search(r'baton_router_tokens_total\{kind="cached"\} (\S+)', http.get("/metrics").text)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("how", ["to its end", "left", "from where its pod died"])
def test_cached_tokens_are_counted_for_streams_that_do_not_ask_for_usage(
    stage: Stage, router: Router, http: httpx.Client, how: str
) -> None:
    """A prompt once, for all of its choices and pods."""
    body: dict[str, Any] = {"prompt": list(range(7, 327)), "max_tokens": 60, "n": 2, "stream": True}
    timing = Timing(step_s=0.02 if how == "left" else 0.0)
    with stage.playing(router, "w1", "w2", timing=timing) as workers:
        for worker in workers:
            salt = root_salt(worker.settings.fingerprint)
            worker.cache.store(page_identities(body["prompt"], worker.settings.page_size, salt))
        before = cached_tokens(http)
        if how == "from where its pod died":
            workers[0].faults.break_after = workers[1].faults.break_after = 80
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("id: 0.0+319:")
            if how != "left":
                *_, last, _ = lines
                assert last == "data: [DONE]"
        eventually(lambda: cached_tokens(http) == before + 319)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b"\xff\xfe{}", {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-encoding": "gzip"}, 415),
        (json.dumps({"messages": TALK, "max_tokens": 2}).encode(), {"x-baton-deadline-ms": "soon"}, 400),
        (json.dumps({"messages": TALK, "max_tokens": 2}).encode(), {"x-baton-deadline-ms": "9" * 5000}, 400),
    ],
)
def test_malformed_requests_are_refused(
    http: httpx.Client, workers: list[SimulatedWorker], body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json", **headers}
    )
    assert answer.status_code == status and answer.json()["error"]["type"] == "invalid_request_error"
