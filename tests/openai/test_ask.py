from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from baton.core.errors import InvalidField, InvalidRequest, UnknownField, UnknownModel, UnsupportedField
from baton.core.types import SamplingParams
from baton.openai import Asked, Endpoint, Prompt, ServedModel, read_chat, read_completion, read_generate
from baton.openai.requests import ChatRequest, CompletionRequest, GenerateRequest, GenerateSampling
from baton.tokens import page_identities, root_salt

HI = [{"role": "user", "content": "hi"}]


def chat(model: ServedModel, /, **fields: Any) -> Asked:
    return read_chat(json.dumps({"messages": HI, **fields}).encode(), model, id="7", created=5)


def complete(model: ServedModel, /, **fields: Any) -> Asked:
    return read_completion(json.dumps({"prompt": "hi", **fields}).encode(), model, id="7", created=5)


def generate(model: ServedModel, /, **fields: Any) -> Asked:
    return read_generate(json.dumps(fields).encode(), model, id="7", created=5)


def test_a_chat_is_templated_and_tokenized(model: ServedModel) -> None:
    asked = chat(model)
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert asked.prompts == (Prompt(tuple(model.tokenizer.encode(text)), text),)
    assert asked.shape.endpoint is Endpoint.CHAT
    assert (asked.shape.id, asked.shape.model, asked.shape.created) == ("chatcmpl-7", "big", 5)
    assert not (asked.shape.stream or asked.shape.include_usage or asked.shape.echo)
    # The makers' defaults, and as many tokens as are left.
    assert asked.sampling == (SamplingParams(max_tokens=None, temperature=0.6, top_k=20, top_p=0.95),)
    assert chat(model, chat_template_kwargs={"enable_thinking": False}).prompts[0].text == (
        text + "<think>\n\n</think>\n\n"
    )
    assert chat(model, add_generation_prompt=False).prompts[0].text == text.removesuffix(
        "<|im_start|>assistant\n"
    )


def test_a_final_message_is_continued(model: ServedModel) -> None:
    asked = chat(model, messages=[*HI, {"role": "assistant", "content": "Well"}], continue_final_message=True)
    assert (asked.prompts[0].text or "").endswith("<|im_start|>assistant\nWell")
    with pytest.raises(InvalidField, match="continue_final_message"):
        chat(model, continue_final_message=True, add_generation_prompt=True)


def test_every_sampling_field_of_chat_arrives(model: ServedModel) -> None:
    fields = {
        "min_tokens": 2, "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1, "seed": -3,
        "presence_penalty": -1, "frequency_penalty": 1.5, "repetition_penalty": 1.1, "ignore_eos": True,
        "n": 3, "skip_special_tokens": False, "include_stop_str_in_output": True, "prompt_logprobs": 1,
    }  # fmt: skip
    more = {
        "max_completion_tokens": 9, "max_tokens": 8, "logit_bias": {"5": -100, "6": 1.5},
        "stop": ["a", "b"], "stop_token_ids": [1, 2], "logprobs": True, "top_logprobs": 4,
    }  # fmt: skip
    assert chat(model, **fields, **more).sampling == (
        SamplingParams(
            **fields,
            max_tokens=9,
            logit_bias=((5, -100.0), (6, 1.5)),
            stop=("a", "b"),
            stop_token_ids=(1, 2),
            logprobs=4,
        ),
    )
    sampling = chat(model, max_tokens=8, stop="x", no_stop_trim=True, logprobs=True).sampling[0]
    assert (sampling.max_tokens, sampling.stop, sampling.logprobs) == (8, ("x",), 0)
    assert sampling.include_stop_str_in_output
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.6, 20, 0.95)


def test_null_is_as_good_as_absent(model: ServedModel) -> None:
    assert chat(model, **_nothing(ChatRequest, "messages")) == chat(model)
    assert complete(model, **_nothing(CompletionRequest, "prompt")) == complete(model)
    assert generate(model, text="hi", **_nothing(GenerateRequest, "text")) == generate(model, text="hi")
    # Here null is a length of its own.
    sampling = _nothing(GenerateSampling, "max_new_tokens")
    assert generate(model, text="hi", sampling_params=sampling) == generate(model, text="hi")


def _nothing(kind: type[msgspec.Struct], *but: str) -> dict[str, None]:
    return dict.fromkeys(name for name in kind.__struct_fields__ if name not in but)


def test_harmless_fields_are_accepted(model: ServedModel) -> None:
    fields: dict[str, Any] = {
        "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto",
        "parallel_tool_calls": True, "modalities": ["text"], "response_format": {"type": "text"},
        "verbosity": "low",        "safety_identifier": "x", "use_beam_search": False,
    }  # fmt: skip
    assert chat(model, **fields) == chat(model)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a fox", ["a fox"]),
        (["a fox", "b"], ["a fox", "b"]),
        ([5, 6, 7], [None]),
        ([[5, 6], [7]], [None, None]),
        (["a", [5]], ["a", None]),
    ],
)
def test_prompts_come_in_every_form(model: ServedModel, prompt: Any, texts: list[str | None]) -> None:
    asked = complete(model, prompt=prompt)
    assert [p.text for p in asked.prompts] == texts
    for made, given in zip(asked.prompts, prompt if len(texts) > 1 else [prompt], strict=True):
        if made.text is not None:
            assert list(made.token_ids) == model.tokenizer.encode(made.text)
        else:
            assert list(made.token_ids) == given
    assert asked.sampling == (SamplingParams(temperature=0.6, top_k=20, top_p=0.95),) * len(texts)
    assert asked.shape.id == "cmpl-7"


def test_a_completion_has_its_beginning_token_and_a_chat_does_not(llama2: ServedModel) -> None:
    assert complete(llama2, prompt="fox").prompts[0].token_ids[0] == llama2.tokenizer.bos_id
    bare = complete(llama2, prompt="fox", add_special_tokens=False)
    assert llama2.tokenizer.bos_id not in bare.prompts[0].token_ids
    assert llama2.tokenizer.bos_id not in chat(llama2).prompts[0].token_ids
    assert chat(llama2, add_special_tokens=True).prompts[0].token_ids[0] == llama2.tokenizer.bos_id


def test_echo_scores_the_prompt_too(model: ServedModel) -> None:
    asked = complete(model, echo=True, logprobs=2)
    assert asked.shape.echo
    assert asked.sampling[0].prompt_logprobs == asked.sampling[0].logprobs == 2
    assert complete(model, logprobs=2).sampling[0].prompt_logprobs is None


def test_sglangs_endpoint(model: ServedModel) -> None:
    asked = generate(model, text="hi")
    assert asked.sampling == (SamplingParams(max_tokens=128, temperature=0.6, top_k=20, top_p=0.95),)
    assert (asked.shape.id, asked.shape.batched, asked.prompts[0].text) == ("7", False, "hi")
    asked = generate(
        model,
        input_ids=[[1, 2], [3]],
        sampling_params=[
            {"max_new_tokens": 4, "temperature": 0},
            {"sampling_seed": 3, "stop": "x", "top_k": -1},
        ],
        return_logprob=True,
        top_logprobs_num=2,
        logprob_start_len=1,
        rid="mine",
    )
    assert [p.token_ids for p in asked.prompts] == [(1, 2), (3,)]
    assert asked.shape.batched and not asked.shape.stream
    assert generate(model, text="hi", stream=True).shape.stream
    assert (asked.shape.id, asked.id, asked.shape.logprob_start) == ("mine", "7", 1)
    one, two = asked.sampling
    assert (one.max_tokens, one.temperature, one.logprobs, one.prompt_logprobs) == (4, 0.0, 2, 2)
    assert (two.seed, two.stop, two.top_k) == (3, ("x",), -1)


def test_sglangs_sampling_takes_biases(model: ServedModel) -> None:
    asked = generate(model, text="hi", sampling_params={"logit_bias": {"5": -100, "6": 1.5}})
    assert asked.sampling[0].logit_bias == ((5, -100.0), (6, 1.5))


def test_one_request_is_made_per_sequence(model: ServedModel) -> None:
    prompts = [[1] * 20, [2] * 40]
    asked = complete(model, prompt=prompts, n=2, seed=5, cache_salt="tenant", priority=-1)
    requests = asked.requests(16, "model")
    assert [r.id for r in requests] == ["7-0", "7-1", "7-2", "7-3"]
    assert [list(r.token_ids) for r in requests] == [prompts[0], prompts[0], prompts[1], prompts[1]]
    assert [r.sampling.seed for r in requests] == [5, 6, 5, 6]
    assert {r.sampling.n for r in requests} == {1} and {r.priority for r in requests} == {-1}
    salt = root_salt("model", cache_salt="tenant")
    assert {r.salt for r in requests} == {salt}
    assert requests[3].identities == page_identities(prompts[1], 16, salt)
    assert complete(model, prompt=prompts).requests(16, "model")[0].identities != requests[0].identities
    assert {r.sampling.seed for r in chat(model, n=2).requests(16, "m")} == {None}


def test_stream_options(model: ServedModel) -> None:
    shape = chat(
        model, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
    ).shape
    assert shape.stream and shape.include_usage and shape.usage_in_chunks
    shape = complete(
        model, stream=True, return_token_ids=True, return_tokens_as_token_ids=True, request_id="r"
    ).shape
    assert shape.return_token_ids and shape.tokens_as_ids and not shape.include_usage
    assert shape.id == "r"


def test_the_answer_names_the_model_that_was_asked_for(model: ServedModel) -> None:
    assert chat(model, model="big-latest").shape.model == "big-latest"
    with pytest.raises(UnknownModel, match="'small' does not exist here; served: big, big-latest") as caught:
        chat(model, model="small")
    assert (caught.value.status, caught.value.field) == (404, "model")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\u00e4"}'}}


def test_tools_reach_the_template(model: ServedModel) -> None:
    text = chat(model, tools=[TOOL], tool_choice="auto").prompts[0].text or ""
    assert json.dumps(TOOL) in text
    for without in ({"tools": [TOOL], "tool_choice": "none"}, {"tools": []}):
        assert chat(model, **without).prompts == chat(model).prompts
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "x"},
    ]
    assert '{"name": "f", "arguments": {"a": "ä"}}' in (chat(model, messages=messages).prompts[0].text or "")
    empty = {**CALL, "function": {"name": "f", "arguments": ""}}
    messages[1] = {"role": "assistant", "tool_calls": [empty]}
    assert '"arguments": {}}' in (chat(model, messages=messages).prompts[0].text or "")


@pytest.mark.parametrize("arguments", ["[" * 100_000, '{"a": "\\ud800"}', "1" * 5000, "nothing"])
def test_arguments_that_are_no_json_are_named(model: ServedModel, arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(InvalidField, match="is not JSON") as caught:
        chat(model, messages=[*HI, {"role": "assistant", "content": None, "tool_calls": [call]}])
    assert caught.value.field == "messages[1].tool_calls[0].function.arguments"


def test_contents_in_parts_become_what_the_template_takes(model: ServedModel, llama2: ServedModel) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]}
    ]
    assert "user\na\nb<|im_end|>" in (chat(model, messages=messages).prompts[0].text or "")
    assert chat(llama2, messages=messages).prompts[0].text == "[user]ab"


def test_a_developer_is_the_system_where_the_template_knows_none(
    model: ServedModel, llama2: ServedModel
) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *HI]
    assert (chat(model, messages=messages).prompts[0].text or "").startswith("<|im_start|>system\nBe brief.<")
    assert (chat(llama2, messages=messages).prompts[0].text or "").startswith("[system]Be brief.")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_tokens": "5"}, "max_tokens", "Expected `int | null`, got `str`"),
        ({"max_tokens": 1.5}, "max_tokens", "got `float`"),
        ({"max_tokens": 0}, "max_tokens", "1 or more"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "1 or more, not -1"),
        ({"n": True}, "n", "got `bool`"),
        ({"n": 129}, "n", "between 1 and 128"),
        ({"temperature": -1}, "temperature", "between 0 and 100"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"stop": [1]}, "stop[0]", "Expected `str`"),
        ({"stop": [""]}, "stop", "not empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "Expected `int`"),
        ({"logit_bias": {"1": "x"}}, "logit_bias", "Expected `float`"),
        ({"logit_bias": {"512": 1}}, "logit_bias", "token id 512 is out of the vocabulary"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "0 or more"),
        ({"stop_token_ids": [512]}, "stop_token_ids", "out of the vocabulary"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "between 0 and 20"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "Expected `bool | null`"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream is true"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "role"),
        ({"messages": [*HI, {"role": "user", "content": 1}]}, "messages[1].content", "text or a list"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "need text",
        ),
        ({"messages": ["x"]}, "messages[0]", "Expected `object`"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
            "not JSON",
        ),
        (
            {"messages": [{"role": "a", "tool_calls": [1]}]},
            "messages[0].tool_calls[0].function",
            "with a name",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "with a name"),
        ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs", "field of its own"),
        ({"request_id": "x" * 200}, "request_id", "printable"),
        ({"request_id": "a\nb"}, "request_id", "printable"),
        ({"rid": "a\nb"}, "rid", "printable"),
        (
            {"messages": [{"role": "user", "content": "x " * 300}]},
            "messages",
            "the model's length is 200 tokens",
        ),
        ({"max_tokens": 200}, "messages", "200 for the output"),
    ],
)
def test_a_wrong_field_of_chat_is_named(
    model: ServedModel, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        chat(model, **fields)
    assert caught.value.field == param
    assert says in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"prompt": ""}, "prompt", "at least one token"),
        ({"prompt": []}, "prompt", "1 to 1024 prompts"),
        ({"prompt": None}, "prompt", "need text"),
        ({"prompt": {}}, "prompt", "need text"),
        ({"prompt": ["a", ""]}, "prompt[1]", "at least one token"),
        ({"prompt": [[]]}, "prompt[0]", "at least one token"),
        ({"prompt": [1, "a"]}, "prompt[1]", "need a token id"),
        ({"prompt": [1, True]}, "prompt[1]", "need a token id"),
        ({"prompt": [[1], [2.5]]}, "prompt[1][0]", "need a token id"),
        ({"prompt": [[1], 5]}, "prompt[1]", "need text"),
        ({"prompt": [1, 512]}, "prompt", "token id 512 is out"),
        ({"prompt": [1] * 200}, "prompt", "200 tokens"),
        ({"prompt": [1] * 190}, "prompt", "16 for the output"),
        ({"prompt": ["a"] * 20, "n": 100}, "n", "exceed 1024 choices"),
        ({"logprobs": 25}, "logprobs", "between 0 and 20"),
    ],
)
def test_a_wrong_field_of_completions_is_named(
    model: ServedModel, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        complete(model, **fields)
    assert caught.value.field == param
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({}, "text", "either text or input_ids"),
        ({"text": "a", "input_ids": [1]}, "text", "either"),
        ({"text": 5}, "text", "Expected"),
        ({"input_ids": "a b"}, "input_ids", "need token ids"),
        ({"input_ids": [[1], "a"]}, "input_ids[1]", "need token ids"),
        (
            {"text": "a", "sampling_params": {"max_new_tokens": 0}},
            "sampling_params.max_new_tokens",
            "1 or more",
        ),
        ({"text": "a", "sampling_params": {"top_p": 2}}, "sampling_params.top_p", "at most 1"),
        ({"text": "a", "sampling_params": {"top_p": "x"}}, "sampling_params.top_p", "Expected"),
        ({"text": "a", "sampling_params": {"max_tokens": 2}}, "sampling_params.max_tokens", "did you mean"),
        ({"text": "a", "sampling_params": {"regex": ""}}, "sampling_params.regex", "is empty"),
        ({"text": ["a"], "sampling_params": [{"stop": [1]}]}, "sampling_params[0].stop[0]", "Expected"),
        ({"text": ["a"], "sampling_params": [{}, {}]}, "sampling_params", "2 of them for 1"),
        ({"text": ["a", "b"], "sampling_params": [{"n": 2}, {}]}, "sampling_params", "n must be the same"),
        ({"text": ["a"] * 20, "sampling_params": {"n": 100}}, "sampling_params.n", "exceed 1024 choices"),
        ({"text": "a", "return_logprob": True, "top_logprobs_num": 21}, "top_logprobs_num", "between"),
        ({"text": "a", "image_data": "x"}, "image_data", "only text"),
        ({"text": "a", "rid": "a\nb"}, "rid", "printable"),
        (
            {"text": "a", "sampling_params": {"stop_token_ids": [512]}},
            "sampling_params.stop_token_ids",
            "out of",
        ),
        (
            {"text": "a", "sampling_params": {"logit_bias": {"512": 1}}},
            "sampling_params.logit_bias",
            "out of",
        ),
    ],
)
def test_a_wrong_field_of_generate_is_named(
    model: ServedModel, fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        generate(model, **fields)
    assert caught.value.field == param
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("structural_tag", "x", "response_format and regex are"),
        ("modalities", ["text", "audio"], "only text"),
        ("chat_template", "{{ 1 }}", "own template"),
        ("truncate_prompt_tokens", 5, "never cut"),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "not 'image_url'",
        ),
    ],
)
def test_what_is_known_and_not_served_is_refused_clearly(
    model: ServedModel, field: str, value: Any, says: str
) -> None:
    with pytest.raises(UnsupportedField) as caught:
        chat(model, **{field: value})
    assert says in str(caught.value)
    assert (caught.value.status, caught.value.code) == (400, "unsupported_value")


@pytest.mark.parametrize("field", ["top_k", "min_tokens", "priority"])
def test_numbers_are_those_that_can_be_sent_to_pods(model: ServedModel, field: str) -> None:
    most = 2**63 - 1
    asked = chat(model, **{field: most})
    assert msgspec.msgpack.encode((asked.shape, asked.requests(16, "model")))
    for wrong in (most + 1, 10**30, -most - 2):
        with pytest.raises(InvalidField, match=field):
            chat(model, **{field: wrong})


def test_where_scores_begin_is_a_number_that_can_be_sent_to_pods(model: ServedModel) -> None:
    with pytest.raises(InvalidField, match="logprob_start_len"):
        generate(model, text="hi", return_logprob=True, logprob_start_len=10**30)


def test_a_stream_that_would_not_bring_the_prompts_scores_is_refused(model: ServedModel) -> None:
    for read in (chat, complete):
        with pytest.raises(UnsupportedField, match=r"prompt_logprobs: .* not in a stream"):
            read(model, stream=True, prompt_logprobs=1)
        assert read(model, stream=True, logprobs=None, prompt_logprobs=None).shape.stream
    assert complete(model, stream=True, echo=True, logprobs=1).sampling[0].prompt_logprobs == 1
    wanted: dict[str, Any] = {"text": "hi", "return_logprob": True, "stream": True}
    with pytest.raises(UnsupportedField, match=r"logprob_start_len: .* not in a stream"):
        generate(model, **wanted, logprob_start_len=0)
    assert generate(model, **wanted).sampling[0].logprobs == 0


def test_completions_refuse_what_they_would_drop(model: ServedModel) -> None:
    with pytest.raises(UnsupportedField, match="suffix: is not served"):
        complete(model, suffix="end")
    with pytest.raises(UnsupportedField, match="best_of"):
        complete(model, best_of=3)
    assert complete(model, best_of=2, n=2).shape.n == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [("max_token", "did you mean max_tokens?"), ("temprature", "did you mean temperature?"), ("zzz", "zzz")],
)
def test_an_unknown_field_is_named_with_the_nearest_known(model: ServedModel, name: str, hint: str) -> None:
    for read in (chat, complete):
        with pytest.raises(UnknownField) as caught:
            read(model, **{name: 1})
        assert f"Unrecognized request argument supplied: {name}" in str(caught.value)
        assert hint in str(caught.value)
        assert caught.value.field == name
    with pytest.raises(UnknownField) as caught:
        chat(model, stream=True, stream_options={name: 1})
    assert caught.value.field == f"stream_options.{name}"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "not JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not JSON"),
        (b'{"temperature": NaN, "messages": []}', "not JSON"),
        (b"[" * 100_000, "not"),
        (b"[]", "not a request: Expected `object`, got `array`"),
        (b"{}", "missing required field `messages`"),
    ],
)
def test_a_body_that_is_no_request_is_the_callers_mistake(model: ServedModel, body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_chat(body, model, id="7", created=5)


def test_deeply_nested_messages_do_no_harm(model: ServedModel) -> None:
    deep: Any = "x"
    for _ in range(600):
        deep = [deep]
    with pytest.raises(InvalidRequest):
        chat(model, tools=[{"function": {"name": "f", "parameters": deep}}])


def test_a_seed_is_drawn_for_every_prompt_that_has_none(model: ServedModel) -> None:
    drawn = complete(model, prompt=["a", "b"], n=2).seeded()
    seeds = [one.sampling.seed for one in drawn.requests(16, "f")]
    assert None not in seeds and len(set(seeds)) == 4
    given = complete(model, prompt=["a", "b"], seed=7)
    assert given.seeded() is given
