from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokens import checkpoints
from transformers import AutoTokenizer

from baton.core.errors import InvalidField, Misconfigured, UnsupportedModel
from baton.tokens.pieces import Decoding, Family
from baton.tokens.tokenizer import Tokenizer

KINDS = sorted(checkpoints.KINDS)

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two spaces, a tab\tand\r\nlines\n\n",
    "天地 🙂👩‍👩‍👧‍👦 e\u0301 ﬁ \u00a0 \u200b 12345678",
    "<|im_start|>user\nhi<|im_end|>\n<think> a<tool call>b</think>",
    "<s>[INST] x [/INST] y </s><|user|> z <|eot_id|><|begin_of_text|>",
]

NAMED = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]

special_or_text = st.lists(
    st.sampled_from([*TEXTS, "<|endoftext|>", "<|im_end|>", "<s>", "</s>"]) | st.text(max_size=12), max_size=5
).map("".join)


@pytest.fixture(scope="module")
def references(checkpoint: dict[str, Path]) -> dict[str, Any]:
    return {kind: AutoTokenizer.from_pretrained(directory) for kind, directory in checkpoint.items()}


@pytest.mark.parametrize("kind", KINDS)
@given(text=special_or_text)
@settings(max_examples=60)
def test_encoding_and_decoding_equal_transformers(
    tokenizers: dict[str, Tokenizer], references: dict[str, Any], kind: str, text: str
) -> None:
    ours, theirs = tokenizers[kind], references[kind]
    for add_special in (True, False):
        ids = ours.encode(text, add_special=add_special)
        assert ids == theirs.encode(text, add_special_tokens=add_special)
    for skip in (True, False):
        assert ours.decode(ids, skip_special=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_equal_transformers(
    tokenizers: dict[str, Tokenizer], references: dict[str, Any], kind: str
) -> None:
    ours, theirs = tokenizers[kind], references[kind]
    assert ours.special_tokens == theirs.special_tokens_map
    assert set(theirs.all_special_ids) <= ours.special_ids
    assert ours.bos_id == theirs.bos_token_id
    assert ours.eos_ids == (theirs.eos_token_id,)
    assert ours.size == len(theirs)
    assert [ours.token(i) for i in range(ours.size)] == theirs.convert_ids_to_tokens(list(range(ours.size)))


def test_families_of_decoders_are_recognised(tokenizers: dict[str, Tokenizer]) -> None:
    assert {kind: tokenizer.decoding for kind, tokenizer in tokenizers.items()} == {
        "qwen": Decoding(Family.BYTE_LEVEL),
        "llama3": Decoding(Family.BYTE_LEVEL),
        "llama2": Decoding(Family.BYTE_FALLBACK, strips_first_space=True),
        "unigram": Decoding(Family.OTHER),
    }


def test_many_texts_encode_as_each_of_them(tokenizers: dict[str, Tokenizer]) -> None:
    assert tokenizers["llama3"].encode_all(TEXTS) == [tokenizers["llama3"].encode(text) for text in TEXTS]


@pytest.mark.parametrize("kind", ["qwen", "llama3"])
def test_bytes_of_byte_level_tokens_join_to_the_text(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    for text in TEXTS[2:]:
        ids = tokenizer.encode(text, add_special=False)
        joined = b"".join(map(tokenizer.token_bytes, ids))
        assert joined.decode() == tokenizer.decode(ids, skip_special=False)


def test_bytes_and_text_of_single_tokens(tokenizers: dict[str, Tokenizer]) -> None:
    llama2, qwen = tokenizers["llama2"], tokenizers["qwen"]
    emoji = llama2.encode("🙂", add_special=False)
    assert b"".join(map(llama2.token_bytes, emoji)) == " 🙂".encode()
    assert llama2.token_text(emoji[-1]) == "\ufffd"
    assert llama2.token_bytes(llama2.token_id("<s>") or 0) == b"<s>"
    assert qwen.token_text(qwen.token_id("<|im_end|>") or 0) == "<|im_end|>"
    assert qwen.token_text(qwen.token_id("<tool call>") or 0) == "<tool call>"
    assert qwen.token_bytes(10**6) == b""
    assert qwen.token(-1) == ""
    unigram = tokenizers["unigram"]
    assert unigram.token_text(unigram.encode("fox")[0]) in "fox"


def test_ids_outside_the_vocabulary_are_named(tokenizers: dict[str, Tokenizer]) -> None:
    qwen = tokenizers["qwen"]
    qwen.check_ids([0, qwen.size - 1], "prompt")
    qwen.check_ids([], "prompt")
    qwen.check_ids([qwen.size], "prompt", limit=qwen.size + 1)
    for wrong in (-1, qwen.size):
        with pytest.raises(InvalidField, match=rf"prompt: token id {wrong} is out") as caught:
            qwen.check_ids(iter([0, wrong]), "prompt")
        assert caught.value.field == "prompt"


def test_text_that_is_no_unicode_is_the_callers_mistake(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InvalidField):
        tokenizers["qwen"].encode("\ud800")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ["<|im_end|>"]),
        ({"generation_config": {"eos_token_id": [503, 500]}}, ["#503", "#500", "<|im_end|>"]),
        ({"generation_config": {"eos_token_id": 7}}, ["#7", "<|im_end|>"]),
        ({"generation_config": {"eos_token_id": 7}, "config": {"eos_token_id": 8}}, ["#7", "<|im_end|>"]),
        ({"config": {"eos_token_id": 8}}, ["#8", "<|im_end|>"]),
        ({"config": {"text_config": {"eos_token_id": [8, 9]}}}, ["#8", "#9", "<|im_end|>"]),
    ],
)
def test_every_id_that_ends_a_text_is_found(
    tmp_path: Path, more: dict[str, Any], expected: list[str]
) -> None:
    tokenizer = Tokenizer.load(checkpoints.write(tmp_path, "qwen", **more))
    ids = [int(e[1:]) if e[0] == "#" else tokenizer.token_id(e) for e in expected]
    assert list(tokenizer.eos_ids) == ids


def test_special_tokens_that_only_the_configuration_knows_are_added(tmp_path: Path) -> None:
    _, config = checkpoints.qwen()
    size = Tokenizer.load(checkpoints.write(tmp_path / "plain", "qwen")).size
    listed = {
        str(size - 1): {"content": "<tool call>", "special": True},
        str(size): {"content": "<new>", "lstrip": False, "normalized": False, "special": True},
    }
    changed = {**config, "tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": listed}
    changed |= {"image_token": "<image>", "sep_token": "<think>"}
    directory = checkpoints.write(tmp_path / "more", "qwen", tokenizer_config=changed)
    ours, theirs = Tokenizer.load(directory), AutoTokenizer.from_pretrained(directory)
    text = "a<new>b<tool call><think>c<image>"
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ids[1] == size
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "ab<think>c"
    assert ours.special_tokens == theirs.special_tokens_map


def test_the_legacy_file_of_special_tokens_counts(tmp_path: Path) -> None:
    more = {
        "bos_token": {"content": "<think>", "lstrip": False},
        "additional_special_tokens": ["<tool call>"],
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    directory = checkpoints.write(tmp_path, "qwen", special_tokens_map=more, tokenizer_config=config)
    ours, theirs = Tokenizer.load(directory), AutoTokenizer.from_pretrained(directory)
    assert (
        ours.special_tokens
        == theirs.special_tokens_map
        == {"bos_token": "<think>", "eos_token": "<|im_end|>"}
    )
    assert ours.bos_id == theirs.bos_token_id
    ids = ours.encode("x<think>y")
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == "xy"


def test_limits_of_a_training_run_do_not_cut_prompts(tmp_path: Path) -> None:
    directory = checkpoints.write(tmp_path, "qwen")
    saved = json.loads((directory / "tokenizer.json").read_text())
    saved["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (directory / "tokenizer.json").write_text(json.dumps(saved))
    assert len(Tokenizer.load(directory).encode("The quick brown fox")) > 2


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(Misconfigured, match="not a directory"):
        Tokenizer.load(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(Misconfigured, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)
    checkpoints.write(tmp_path, "llama2")
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(Misconfigured, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"tokenizer_config": {"chat_template": "A"}}, {"default": "A"}),
        (
            {"tokenizer_config": {"chat_template": NAMED}},
            {"default": "A", "tool_use": "B"},
        ),
        ({"tokenizer_config": {"chat_template": "A"}, "chat_template": "C"}, {"default": "C"}),
        ({"chat_template": {"chat_template": "D"}}, {"default": "D"}),
    ],
)
def test_chat_templates_are_found_in_every_form(
    tmp_path: Path, files: dict[str, Any], expected: dict[str, str]
) -> None:
    assert Tokenizer.load(checkpoints.write(tmp_path, "llama2", **files)).templates == expected


def test_more_templates_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    directory = checkpoints.write(tmp_path, "llama2", chat_template="A")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "rag.jinja").write_text("B")
    assert Tokenizer.load(directory).templates == {"default": "A", "rag": "B"}
