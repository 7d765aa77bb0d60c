"""OpenAI's own client against a running pod: what it asks, what it reads, which errors it raises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.decode.served import Pod

import openai
from baton.engine import LLM, SamplingParams
from baton.tiny import model_path

GREEDY: dict[str, Any] = {"temperature": 0.0, "extra_body": {"ignore_eos": True}}
TALK: Any = [{"role": "user", "content": "The quick brown fox"}]


@pytest.fixture(scope="module")
def client(pod: Pod) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_greedy_text_is_what_the_engine_s_own_interface_gives(client: openai.OpenAI) -> None:
    prompts = ["The quick brown fox", "Le cœur", "天地"]
    made = client.completions.create(model="tiny", prompt=prompts, max_tokens=24, **GREEDY)
    with LLM(str(model_path()), pages=512, threads=1) as llm:
        outputs = llm.generate(prompts, SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True))
    assert [choice.text for choice in made.choices] == [output.text for output in outputs]
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert made.usage is not None
    assert made.usage.prompt_tokens == sum(len(output.prompt_token_ids) for output in outputs)
    assert made.usage.completion_tokens == 72


def test_a_chat_and_its_stream_agree(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=TALK, max_tokens=24, **GREEDY)
    usage: Any = {"stream": True, "stream_options": {"include_usage": True}}
    stream = client.chat.completions.create(model="tiny", messages=TALK, max_tokens=24, **usage, **GREEDY)
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [delta.role for delta in deltas].count("assistant") == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 2


def test_several_sequences_of_one_prompt(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": TALK, "max_tokens": 12, "n": 3, "seed": 5}
    ask |= {"temperature": 2.0}
    whole = client.chat.completions.create(**ask)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert whole.usage is not None
    assert whole.usage.prompt_tokens < 60, "the prompt counts once"


def test_a_seed_decides_and_without_one_chance_does(client: openai.OpenAI) -> None:
    def text(**more: Any) -> str:
        made = client.completions.create(
            model="tiny",
            prompt="fox",
            max_tokens=24,
            temperature=2.0,
            extra_body={"ignore_eos": True},
            **more,
        )
        return made.choices[0].text

    assert text(seed=7) == text(seed=7)
    assert len({text(seed=7), text(seed=8), text(), text()}) == 4


def test_log_probabilities_of_a_completion_know_their_place(client: openai.OpenAI) -> None:
    prompt = "The quick 天 fox"
    made = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=16, logprobs=2, echo=True, **GREEDY
    )
    choice, scores = made.choices[0], made.choices[0].logprobs
    assert scores is not None and choice.text.startswith(prompt)
    assert scores.tokens is not None and scores.text_offset is not None
    assert scores.token_logprobs is not None and scores.token_logprobs[0] is None
    assert len(scores.tokens) == len(scores.text_offset) == len(scores.token_logprobs)
    assert scores.text_offset == sorted(scores.text_offset)
    for token, offset in zip(scores.tokens, scores.text_offset, strict=True):
        if not token.startswith(("bytes:", "<|")):  # parts of characters, and tokens without a text
            assert choice.text.startswith(token, offset)
    plain = client.completions.create(model="tiny", prompt=prompt, max_tokens=16, **GREEDY)
    assert choice.text == prompt + plain.choices[0].text


def test_log_probabilities_of_a_streamed_chat(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": TALK, "max_tokens": 8, "logprobs": True}
    whole = client.chat.completions.create(**ask, top_logprobs=2, **GREEDY).choices[0].logprobs
    assert whole is not None and whole.content is not None
    assert len(whole.content) == 8 and all(len(token.top_logprobs) == 2 for token in whole.content)
    streamed = []
    for chunk in client.chat.completions.create(**ask, top_logprobs=2, stream=True, **GREEDY):
        scores = chunk.choices[0].logprobs
        streamed += scores.content if scores is not None and scores.content else []
    assert [token.bytes for token in streamed] == [token.bytes for token in whole.content]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_text_and_work(client: openai.OpenAI, http: httpx.Client, stream: bool) -> None:
    full = (
        client.completions.create(model="tiny", prompt="The quick", max_tokens=40, **GREEDY).choices[0].text
    )
    stop = full[10:13]
    body = {"model": "tiny", "prompt": "The quick", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}
    body |= {"stop": [stop], "stream": stream}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200
    if stream:
        events = [json.loads(e.partition("data: ")[2]) for e in answer.text.split("\n\n") if "data: {" in e]
        choices = [event["choices"][0] for event in events]
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        choices = answer.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == full[: full.index(stop)]
    assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == ("stop", stop)


def test_the_end_of_a_text_is_no_stop_that_somebody_named(http: httpx.Client) -> None:
    ends, fox = 2, "The quick"
    forced = {"logit_bias": {str(ends): 100}, "max_tokens": 5}
    first = http.post("/v1/completions", json={"prompt": fox, **forced}).json()
    choice = first["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    assert first["usage"]["completion_tokens"] == 1
    named = http.post("/v1/completions", json={"prompt": fox, **forced, "stop_token_ids": [ends]}).json()
    assert named["choices"][0]["stop_reason"] == ends
    ignored = http.post("/v1/completions", json={"prompt": fox, **forced, "ignore_eos": True}).json()
    assert ignored["usage"]["completion_tokens"] == 5


def test_many_clients_at_once(pod: Pod) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.completions.create(
            model="small", prompt=f"fox {number}", max_tokens=16, stream=True, **GREEDY
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{pod.url}/v1", api_key="none", max_retries=0, timeout=100
        ) as client:
            together = await asyncio.gather(*(ask(client, number) for number in range(12)))
            assert [await ask(client, number) for number in (3, 8)] == [together[3], together[8]]
            return together

    assert len(set(asyncio.run(all_at_once()))) > 3


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"temperature": 200.0}, openai.BadRequestError, "temperature"),
        ({"model": "huge"}, openai.NotFoundError, "model"),
        ({"max_tokens": 40000}, openai.BadRequestError, "prompt"),
        ({"logit_bias": {"99999": 1}}, openai.BadRequestError, "logit_bias"),
        ({"prompt": [1, 2, 99999]}, openai.BadRequestError, "prompt"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature"),
        ({"stream": True, "prompt": ""}, openai.BadRequestError, "prompt"),
    ],
)
def test_mistakes_become_the_client_s_own_exceptions(
    client: openai.OpenAI, change: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    ask: dict[str, Any] = {"model": "tiny", "prompt": "fox", "max_tokens": 4}
    with pytest.raises(error) as caught:
        client.completions.create(**{**ask, **change})
    assert caught.value.param == param
    assert caught.value.response.headers["x-baton-reason"] == caught.value.code
    assert caught.value.response.headers["x-request-id"]


def test_the_list_of_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "small"]


def test_sglang_s_endpoint_and_the_tokenizer_s(http: httpx.Client) -> None:
    sampling = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}
    made = http.post("/generate", json={"text": ["fox", "quick"], "sampling_params": sampling}).json()
    assert [len(one["output_ids"]) for one in made] == [6, 6]
    streamed = http.post("/generate", json={"text": "fox", "sampling_params": sampling, "stream": True}).text
    events = [json.loads(e.partition("data: ")[2]) for e in streamed.split("\n\n") if "data: {" in e]
    assert events[-1]["text"] == made[0]["text"] and events[-1]["output_ids"] == made[0]["output_ids"]
    assert streamed.endswith("data: [DONE]\n\n")
    tokens = http.post("/tokenize", json={"prompt": "The quick 天"}).json()
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == 4096
    assert http.post("/detokenize", json={"tokens": tokens["tokens"]}).json() == {"prompt": "The quick 天"}
