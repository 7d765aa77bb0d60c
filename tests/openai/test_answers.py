"""Answers and streams, read back with OpenAI's own client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import openai
from baton.core.errors import InvalidField, OutOfPages, QueueFull, UnknownModel, WorkerDied
from baton.core.types import Finish, TokenLogprob
from baton.openai import (
    DONE,
    Choice,
    Endpoint,
    Prompt,
    ServedModel,
    Shape,
    Usage,
    choice_stream,
    detokenize,
    error_body,
    error_event,
    model_list,
    model_told,
    response,
    status_of,
    tokenize,
    usage_event,
)

USAGE = Usage(prompt_tokens=20, completion_tokens=2, cached_tokens=16)


def shape(endpoint: Endpoint = Endpoint.CHAT, **fields: Any) -> Shape:
    return Shape(endpoint=endpoint, id="x-1", model='m"é', created=5, **fields)


def client(body: bytes, status: int = 200, kind: str = "application/json") -> openai.OpenAI:
    """OpenAI's client, talking to a server that answers so."""
    answer: Callable[[httpx.Request], httpx.Response] = lambda request: httpx.Response(  # noqa: E731
        status, content=body, headers={"content-type": kind}
    )
    transport = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=transport, max_retries=0)


def ask(body: bytes) -> ChatCompletion:
    made = client(body).chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    return ChatCompletion.model_validate(made.model_dump())


def stream(*events: bytes) -> Iterator[ChatCompletionChunk]:
    made = client(b"".join(events), kind="text/event-stream").chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    return (ChatCompletionChunk.model_validate(chunk.model_dump()) for chunk in made)


def stream_texts(*events: bytes) -> list[Completion]:
    made = client(b"".join(events), kind="text/event-stream").completions.create(
        model="m", prompt="hi", stream=True
    )
    # Not validated: the type has no null finish reason, although OpenAI's own streams are full of them.
    return list(made)


@pytest.fixture
def scores(model: ServedModel) -> tuple[TokenLogprob, ...]:
    """Log-probabilities of a whole token and of the first byte of a character."""
    fox, byte = model.tokenizer.encode("x")[0], model.tokenizer.token_id("ð") or 0
    other = model.tokenizer.token_id("Ł") or 0
    return (
        TokenLogprob(fox, -0.5, 1, ((fox, -0.5), (byte, -2.0), (other, -3.0))),
        TokenLogprob(byte, float("-inf"), 9, ((fox, -0.1),)),
    )


def choice(index: int = 0, **fields: Any) -> Choice:
    given: dict[str, Any] = {
        "text": f'T{index}"\n天',
        "token_ids": (1, 2),
        "finish": Finish.STOP,
        "usage": USAGE,
    }
    return Choice(index=index, **{**given, **fields})


def test_a_chat_answer(model: ServedModel) -> None:
    body = response(shape(n=2), [choice(), choice(1, finish=Finish.LENGTH, stop="###")], model.tokenizer)
    made = ask(body)
    assert (made.id, made.object, made.created, made.model) == ("x-1", "chat.completion", 5, 'm"é')
    assert [c.message.content for c in made.choices] == ['T0"\n天', 'T1"\n天']
    assert [c.message.role for c in made.choices] == ["assistant", "assistant"]
    assert [(c.index, c.finish_reason, c.logprobs) for c in made.choices] == [
        (0, "stop", None),
        (1, "length", None),
    ]
    raw = json.loads(body)
    assert [c["stop_reason"] for c in raw["choices"]] == [None, "###"]
    assert made.usage is not None and made.usage.prompt_tokens_details is not None
    usage = made.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 4, 24)
    assert made.usage.prompt_tokens_details.cached_tokens == 16
    assert "token_ids" not in raw["choices"][0] and "prompt_token_ids" not in raw


def test_usage_counts_every_prompt_once() -> None:
    assert Usage.total([USAGE] * 6, n=3) == Usage(prompt_tokens=40, completion_tokens=12, cached_tokens=32)


def test_chat_logprobs(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    logprobs = ask(response(shape(), [choice(logprobs=scores)], model.tokenizer)).choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    first, second = logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("x", -0.5, [0x78])
    assert [(t.token, t.logprob, t.bytes) for t in first.top_logprobs] == [
        ("x", -0.5, [0x78]),
        ("\ufffd", -2.0, [0xF0]),
        ("\ufffd", -3.0, [0x9F]),
    ]
    assert (second.token, second.logprob, second.bytes) == ("\ufffd", -9999.0, [0xF0])
    as_ids = ask(response(shape(tokens_as_ids=True), [choice(logprobs=scores)], model.tokenizer))
    content = as_ids.choices[0].logprobs and as_ids.choices[0].logprobs.content
    assert content and content[0].token == f"token_id:{scores[0].token_id}"


def test_ids_of_tokens_where_they_were_asked_for(model: ServedModel) -> None:
    prompt = Prompt((7, 8))
    chat = json.loads(response(shape(return_token_ids=True), [choice(prompt=prompt)], model.tokenizer))
    assert (chat["prompt_token_ids"], chat["choices"][0]["token_ids"]) == ([7, 8], [1, 2])
    text = shape(Endpoint.COMPLETION, return_token_ids=True)
    made = json.loads(response(text, [choice(prompt=prompt)], model.tokenizer))["choices"][0]
    assert (made["prompt_token_ids"], made["token_ids"]) == ([7, 8], [1, 2])


def test_a_completion_answer(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    body = response(shape(Endpoint.COMPLETION), [choice(logprobs=scores, offsets=(0, 1))], model.tokenizer)
    made = client(body).completions.create(model="m", prompt="hi")
    made = Completion.model_validate(made.model_dump())
    assert (made.object, made.choices[0].text, made.choices[0].finish_reason) == (
        "text_completion",
        'T0"\n天',
        "stop",
    )
    logprobs = made.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["x", "bytes:\\xf0"]
    assert logprobs.token_logprobs == [-0.5, -9999.0]
    assert logprobs.text_offset == [0, 1]
    assert logprobs.top_logprobs == [
        {"x": -0.5, "bytes:\\xf0": -2.0, "bytes:\\x9f": -3.0},
        {"x": -0.1, "bytes:\\xf0": -9999.0},
    ]


def test_an_echoed_prompt_comes_with_its_scores(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    ids = tuple(model.tokenizer.encode("T x"))
    scored = (None, *(TokenLogprob(i, -1.0, 1) for i in ids[1:]))
    echo = shape(Endpoint.COMPLETION, echo=True)
    for prompt in (Prompt(ids, "T x"), Prompt(ids)):
        one = choice(prompt=prompt, prompt_logprobs=scored, logprobs=scores, offsets=(0, 1), text="x")
        made = json.loads(response(echo, [one], model.tokenizer))["choices"][0]
        assert made["text"] == "T xx"
        assert made["logprobs"]["token_logprobs"] == [None, *[-1.0] * (len(ids) - 1), -0.5, -9999.0]
        assert made["logprobs"]["top_logprobs"][0] is None
        assert made["logprobs"]["text_offset"][-3:] == [1, 3, 4]
        assert "".join(made["logprobs"]["tokens"][: len(ids)]) == "T x"
        assert "prompt_logprobs" not in made
    plain = json.loads(response(echo, [choice(prompt=Prompt(ids), text="x")], model.tokenizer))["choices"][0]
    assert (plain["text"], plain["logprobs"]) == ("T xx", None)
    alone = choice(prompt=Prompt(ids), prompt_logprobs=scored, text="x")
    made = json.loads(response(echo, [alone], model.tokenizer))["choices"][0]
    assert made["logprobs"] is None and len(made["prompt_logprobs"]) == len(ids)


def test_an_echos_offsets_are_those_of_its_text(model: ServedModel, llama2: ServedModel) -> None:
    """Also where special tokens are written in it, were put before it, or came as ids and are not shown."""

    def starts(served: ServedModel, prompt: Prompt) -> list[tuple[str, int]]:
        scored = (None, *(TokenLogprob(i, -1.0, 1) for i in prompt.token_ids[1:]))
        score = TokenLogprob(served.tokenizer.encode("x", add_special=False)[-1], -1.0, 1)
        one = choice(prompt=prompt, prompt_logprobs=scored, logprobs=(score,), offsets=(0,), text="x")
        echo = shape(Endpoint.COMPLETION, echo=True)
        made = json.loads(response(echo, [one], served.tokenizer))["choices"][0]["logprobs"]
        return list(zip(made["tokens"], made["text_offset"], strict=True))[:-1]

    start, end = "<|im_start|>", "<|im_end|>"
    text = f"{start}T x{end}T"
    ids = tuple(model.tokenizer.encode(text))
    assert starts(model, Prompt(ids, text)) == [(start, 0), ("T", 12), (" x", 13), (end, 15), ("T", 25)]
    assert starts(model, Prompt(ids)) == [(start, 0), ("T", 0), (" x", 1), (end, 3), ("T", 3)]
    ids = tuple(llama2.tokenizer.encode("T"))
    assert starts(llama2, Prompt(ids, "T")) == [("<s>", 0), (" ", 0), ("T", 0)]
    ids = tuple(llama2.tokenizer.encode("<s>T"))
    assert starts(llama2, Prompt(ids, "<s>T")) == [("<s>", 0), ("<s>", 3), (" ", 3), ("T", 3)]


def test_scores_of_a_prompt_without_echo(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    one = choice(prompt=Prompt((5, scores[0].token_id)), prompt_logprobs=(None, scores[0]))
    made = json.loads(response(shape(), [one], model.tokenizer))
    nothing, second = made["prompt_logprobs"]
    assert nothing is None
    assert second[str(scores[0].token_id)] == {"logprob": -0.5, "rank": 1, "decoded_token": "x"}
    assert [entry["rank"] for entry in second.values()] == [1, 2, 3]


def test_sglangs_answer(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    generated = shape(Endpoint.GENERATE, logprob_text=True)
    fox = scores[0].token_id
    one = choice(stop="###", logprobs=scores[:1], prompt=Prompt((5, fox)), prompt_logprobs=(None, scores[0]))
    made = json.loads(response(generated, [one], model.tokenizer))
    assert (made["text"], made["output_ids"]) == ('T0"\n天', [1, 2])
    meta = made["meta_info"]
    assert meta["finish_reason"] == {"type": "stop", "matched": "###"}
    assert (meta["id"], meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (
        "x-1",
        20,
        2,
        16,
    )
    assert meta["output_token_logprobs"] == [[-0.5, fox, "x"]]
    assert [len(top) for top in meta["output_top_logprobs"]] == [3]
    assert meta["input_token_logprobs"] == [[None, 5, None], [-0.5, fox, "x"]]
    assert meta["input_top_logprobs"][0] is None
    late = shape(Endpoint.GENERATE, logprob_start=1)
    assert json.loads(response(late, [one], model.tokenizer))["meta_info"]["input_token_logprobs"] == [
        [-0.5, fox, None]
    ]
    batched = json.loads(
        response(shape(Endpoint.GENERATE, batched=True), [choice(finish=Finish.LENGTH)], model.tokenizer)
    )
    assert batched[0]["meta_info"]["finish_reason"] == {"type": "length", "length": 2}


def test_a_chat_stream(model: ServedModel) -> None:
    one = choice_stream(shape(), model.tokenizer, USAGE)
    events = [
        one.chunk('He"\n', (1,)),
        one.chunk("llo 天", (2, 3)),
        one.chunk("", (4,), finish=Finish.STOP, stop=4),
    ]
    chunks = list(stream(*events, DONE))
    assert [c.choices[0].delta.content for c in chunks] == ['He"\n', "llo 天", ""]
    assert [c.choices[0].delta.role for c in chunks] == ["assistant", None, None]
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, "stop"]
    assert {(c.id, c.created, c.model, c.object) for c in chunks} == {
        ("x-1", 5, 'm"é', "chat.completion.chunk")
    }
    assert [e.split(b"\n")[0] for e in events] == [b"id: 0.0+16:1", b"id: 0.1:2,3", b"id: 0.3:4."]
    assert b'"stop_reason":4' in events[2]
    assert not any(b"usage" in e or b"token_ids" in e for e in events)


def test_a_stream_with_everything(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    full = shape(include_usage=True, usage_in_chunks=True, return_token_ids=True, n=2)
    one = choice_stream(full, model.tokenizer, USAGE, index=1, prompt=Prompt((7, 8)))
    events = [
        one.chunk("x", (1,), logprobs=scores[:1]),
        one.chunk("y", (2,), logprobs=scores[1:], finish=Finish.LENGTH),
    ]
    first, second, last = stream(*events, usage_event(full, USAGE), DONE)
    assert [c.choices[0].index for c in (first, second)] == [1, 1]
    assert first.choices[0].logprobs and first.choices[0].logprobs.content
    assert first.choices[0].logprobs.content[0].token == "x"
    assert [c.usage and c.usage.completion_tokens for c in (first, second, last)] == [1, 2, 2]
    assert last.choices == [] and last.usage and last.usage.total_tokens == 22
    assert b'"token_ids":[1],"prompt_token_ids":[7,8]' in events[0]
    assert b'"token_ids":[2]}' in events[1]


def test_usage_is_null_until_the_last_event(model: ServedModel) -> None:
    counted = shape(include_usage=True)
    one = choice_stream(counted, model.tokenizer, USAGE)
    events = [one.chunk("a", (1,)), one.chunk("b", (2,)), one.chunk("", (), finish=Finish.STOP)]
    assert [json.loads(e.split(b"data: ")[1])["usage"] for e in events] == [None, None, None]
    assert json.loads(usage_event(counted, USAGE)[6:])["usage"]["total_tokens"] == 22


def test_a_completion_stream(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    text = shape(Endpoint.COMPLETION, echo=True)
    one = choice_stream(text, model.tokenizer, USAGE, prompt=Prompt((1,), "héy"))
    chunks = stream_texts(
        one.chunk("x", (5,), logprobs=scores[:1], offsets=(0,)),
        one.chunk("y", (6,), logprobs=scores[1:], offsets=(1,)),
        one.chunk("", (), finish=Finish.LENGTH),
        DONE,
    )
    assert [c.choices[0].text for c in chunks] == ["héyx", "y", ""]
    assert [c.choices[0].logprobs and c.choices[0].logprobs.text_offset for c in chunks] == [[3], [4], None]
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, "length"]
    assert chunks[0].object == "text_completion"


def test_the_echo_of_a_stream_comes_with_scores(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    ids = tuple(model.tokenizer.encode("T x"))
    scored = (None, *(TokenLogprob(i, -1.0, 1) for i in ids[1:]))
    echo = shape(Endpoint.COMPLETION, echo=True)
    for some, more in ((scores[:1], [-0.5]), (None, [])):
        one = choice_stream(echo, model.tokenizer, USAGE, prompt=Prompt(ids), prompt_logprobs=scored)
        event = one.chunk("x", (1,), logprobs=some, offsets=(0,) * len(more))
        made = json.loads(event.split(b"data: ")[1])["choices"][0]
        assert made["text"] == "T xx"
        assert made["logprobs"]["token_logprobs"] == [None, *[-1.0] * (len(ids) - 1), *more]
        assert made["logprobs"]["text_offset"] == [0, 1, 3][: len(ids) + len(more)]
        assert b"T x" not in one.chunk("y", (2,), logprobs=scores[1:], offsets=(1,))


def test_a_resumed_stream_goes_on_where_its_client_stands(model: ServedModel) -> None:
    whole = choice_stream(shape(), model.tokenizer, USAGE)
    whole.chunk("a", (1,))
    resumed = choice_stream(shape(), model.tokenizer, USAGE, delivered=[1], delivered_text="a")
    assert resumed.chunk("b", (2, 3)) == whole.chunk("b", (2, 3))
    assert b"role" not in resumed.chunk("c", (4,), finish=Finish.STOP)
    generated = shape(Endpoint.GENERATE)
    whole = choice_stream(generated, model.tokenizer, USAGE)
    whole.chunk("a", (1,))
    resumed = choice_stream(generated, model.tokenizer, USAGE, delivered=[1], delivered_text="a")
    assert resumed.chunk("b", (2,)) == whole.chunk("b", (2,))


def test_sglangs_stream_holds_all_text_so_far(model: ServedModel, scores: tuple[TokenLogprob, ...]) -> None:
    one = choice_stream(shape(Endpoint.GENERATE, n=2), model.tokenizer, USAGE, index=1)
    first = one.chunk("a", (1,), logprobs=scores[:1])
    second = one.chunk("b", (2, 3), logprobs=scores[1:], finish=Finish.STOP, stop=3)
    assert second.startswith(b"id: 1.1:2,3.\ndata: ")
    made = [json.loads(e.split(b"data: ")[1]) for e in (first, second)]
    assert [m["text"] for m in made] == ["a", "ab"]
    assert [m["output_ids"] for m in made] == [[1], [1, 2, 3]]
    assert [m["index"] for m in made] == [1, 1]
    assert [m["meta_info"]["completion_tokens"] for m in made] == [1, 3]
    assert [m["meta_info"]["finish_reason"] for m in made] == [None, {"type": "stop", "matched": 3}]
    assert [len(m["meta_info"]["output_token_logprobs"]) for m in made] == [1, 2]


def test_formatting_an_event_takes_microseconds(model: ServedModel) -> None:
    one = choice_stream(shape(include_usage=True), model.tokenizer, USAGE)
    one.chunk("", (1,))
    started = time.perf_counter()
    for token in range(2000):
        one.chunk(" hello", (token,))
    # About 1 µs on an idle machine; the bound leaves room for a busy one.
    assert (time.perf_counter() - started) / 2000 < 50e-6


def test_a_shape_travels(model: ServedModel) -> None:
    there = shape(Endpoint.GENERATE, n=3, stream=True, logprob_start=4)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(there), type=Shape) == there


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code", "raised"),
    [
        (
            InvalidField("a.b[0]", "no"),
            400,
            "invalid_request_error",
            "a.b[0]",
            "invalid_value",
            openai.BadRequestError,
        ),
        (
            UnknownModel("model", "no"),
            404,
            "invalid_request_error",
            "model",
            "model_not_found",
            openai.NotFoundError,
        ),
        (QueueFull("full"), 429, "rate_limit_error", None, "queue_full", openai.RateLimitError),
        (
            OutOfPages("full"),
            503,
            "service_unavailable_error",
            None,
            "out_of_pages",
            openai.InternalServerError,
        ),
        (WorkerDied("gone"), 503, "server_error", None, "worker_died", openai.InternalServerError),
        (RuntimeError("secret"), 500, "server_error", None, "internal_error", openai.InternalServerError),
    ],
)
def test_errors_are_what_clients_know(
    error: Exception,
    status: int,
    kind: str,
    param: str | None,
    code: str,
    raised: type[openai.APIStatusError],
) -> None:
    assert status_of(error) == status
    with pytest.raises(raised) as caught:
        client(error_body(error), status).chat.completions.create(model="m", messages=[])
    assert (caught.value.type, caught.value.param, caught.value.code) == (kind, param, code)
    assert "secret" not in str(caught.value)
    with pytest.raises(openai.APIError, match=r"no|full|gone|internal error"):
        list(stream(error_event(error)))


def test_the_list_of_models(model: ServedModel) -> None:
    made = client(model_list(model)).models.list()
    assert [m.id for m in made.data] == ["big", "big-latest"]
    assert {(m.object, m.created, m.owned_by) for m in made.data} == {("model", 1_700_000_000, "baton")}
    assert client(model_told(model, "big-latest")).models.retrieve("big-latest") == made.data[1]
    with pytest.raises(UnknownModel, match="'bigger' does not exist here; served: big, big-latest"):
        model_told(model, "bigger")
    with pytest.raises(UnknownModel):
        model_told(model, "")


def test_tokenize_and_detokenize(model: ServedModel, llama2: ServedModel) -> None:
    made = json.loads(tokenize(b'{"prompt": "a fox", "return_token_strs": true}', model))
    ids = model.tokenizer.encode("a fox")
    assert made["tokens"] == ids and made["count"] == len(ids) and made["max_model_len"] == 200
    assert made["token_strs"] == [model.tokenizer.token(i) for i in ids]
    body = json.dumps(
        {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"enable_thinking": False}}
    )
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert json.loads(tokenize(body.encode(), model))["tokens"] == model.tokenizer.encode(text)
    assert json.loads(tokenize(b'{"prompt": "fox"}', llama2))["tokens"][0] == llama2.tokenizer.bos_id
    bare = json.loads(tokenize(b'{"prompt": "fox", "add_special_tokens": false}', llama2))["tokens"]
    assert llama2.tokenizer.bos_id not in bare
    tokens = {"tokens": model.tokenizer.encode(text)}
    assert json.loads(detokenize(json.dumps(tokens).encode(), model)) == {"prompt": text}
    with pytest.raises(InvalidField, match="either prompt or messages"):
        tokenize(b"{}", model)
    with pytest.raises(InvalidField, match="tokens: token id 512"):
        detokenize(b'{"tokens": [512]}', model)
    with pytest.raises(UnknownModel):
        detokenize(b'{"tokens": [1], "model": "other"}', model)
