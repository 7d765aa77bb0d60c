from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.tokens import checkpoints

from baton.tokens.detokenize import Detokenizer, WindowDetokenizer, detokenizer
from baton.tokens.tokenizer import Tokenizer

FAST = ["llama2", "llama3", "qwen"]
KINDS = sorted(checkpoints.KINDS)

# Emoji with joiners, CJK beyond the BMP, combining marks, right-to-left, lone controls, U+FFFD itself.
hard_text = st.text(
    st.sampled_from("a b▁é\u0301\u0303天🙂👩\u200d👧🏽𠀀مر\n\t\0\x7f\ufffd\u00a0ﬁ")
    | st.characters(exclude_categories=["Cs"]),
    max_size=30,
)
texts = st.lists(hard_text | st.sampled_from(["<|im_end|>", "<tool call>", "</s>", " fox", "<|user|>"])).map(
    "".join
)


def pieces_of(stream: Detokenizer, ids: list[int]) -> list[str]:
    pieces = []
    for token_id in ids:
        before = stream.offset
        pieces.append(stream.push(token_id))
        assert stream.offset == before + len(pieces[-1])
    pieces.append(stream.finish())
    assert stream.finish() == ""
    return pieces


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
@settings(max_examples=60)
def test_text_in_pieces_equals_the_text_at_once(
    tokenizers: dict[str, Tokenizer], kind: str, skip: bool, text: str
) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids, skip_special=skip)
    assert "".join(pieces_of(detokenizer(tokenizer, skip_special=skip), ids)) == whole
    stream = detokenizer(tokenizer, skip_special=skip)
    assert stream.extend(ids) + stream.finish() == whole


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("kind", FAST)
@given(data=st.data())
@settings(max_examples=150)
def test_random_ids_in_pieces_equal_decoding_them_at_once(
    tokenizers: dict[str, Tokenizer], kind: str, skip: bool, data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    # Low ids are single bytes in every kind here, so faulty UTF-8 of all sorts comes up; the highest are
    # special, added and unknown.
    some = (
        st.integers(0, 262)
        | st.integers(0, tokenizer.size + 2)
        | st.integers(tokenizer.size - 8, tokenizer.size)
    )
    ids = data.draw(st.lists(some, max_size=40))
    assert "".join(pieces_of(detokenizer(tokenizer, skip_special=skip), ids)) == tokenizer.decode(
        ids, skip_special=skip
    )


@pytest.mark.parametrize("kind", KINDS)
@given(text=hard_text, data=st.data())
@settings(max_examples=60)
def test_what_follows_a_prompt_continues_its_text(
    tokenizers: dict[str, Tokenizer], kind: str, text: str, data: st.DataObject
) -> None:
    """The prompt's own text stops at its last whole character; the rest comes after it, nothing twice."""
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    if kind == "unigram":
        shown = tokenizer.decode(ids[:cut])
    else:
        content = b"".join(tokenizer.token_bytes(i) for i in ids[:cut] if i not in tokenizer.special_ids)
        shown = content.decode("utf-8", "ignore").removeprefix(" " if kind == "llama2" else "")
    after = "".join(pieces_of(detokenizer(tokenizer, ids[:cut]), ids[cut:]))
    assert shown + after == tokenizer.decode(ids)


def test_a_character_is_held_back_until_it_is_whole(tokenizers: dict[str, Tokenizer]) -> None:
    qwen = tokenizers["qwen"]
    bytes_of_emoji = [qwen.token_id(token) or 0 for token in "ðŁĻĤ"]
    fox = qwen.encode(" fox")
    assert pieces_of(detokenizer(qwen), [*bytes_of_emoji, *fox])[:4] == ["", "", "", "🙂"]
    assert pieces_of(detokenizer(qwen), bytes_of_emoji[:2]) == ["", "", "\ufffd"]
    surrogate = [qwen.token_id(token) or 0 for token in "íł"]
    assert pieces_of(detokenizer(qwen), surrogate)[-1] == "\ufffd\ufffd" == qwen.decode(surrogate)
    assert "".join(pieces_of(detokenizer(qwen), [*surrogate, *fox])) == qwen.decode([*surrogate, *fox])
    broken = pieces_of(detokenizer(qwen), [*bytes_of_emoji[:2], *fox])
    assert broken[2].startswith("\ufffd ")
    end = qwen.token_id("<|im_end|>") or 0
    across = pieces_of(detokenizer(qwen), [*bytes_of_emoji[:2], end, *bytes_of_emoji[2:]])
    assert across == ["", "", "", "", "🙂", ""]


def test_a_run_of_byte_tokens_is_decided_as_a_whole(tokenizers: dict[str, Tokenizer]) -> None:
    llama2 = tokenizers["llama2"]
    run = [llama2.token_id(f"<0x{byte:02X}>") or 0 for byte in "é🙂".encode()]
    space = llama2.token_id("▁") or 0
    assert pieces_of(detokenizer(llama2, [space]), [*run, space]) == [*[""] * 6, "é🙂 ", ""]
    assert pieces_of(detokenizer(llama2, [space]), run) == [*[""] * 6, "é🙂"]
    assert pieces_of(detokenizer(llama2, [space]), [*run[:-1], space])[-2] == "\ufffd" * 5 + " "


def test_only_the_space_that_opens_the_whole_text_is_dropped(tokenizers: dict[str, Tokenizer]) -> None:
    llama2 = tokenizers["llama2"]
    bos, word = llama2.token_id("<s>") or 0, llama2.encode("fox", add_special=False)

    def text(context: list[int], skip_special: bool = True) -> str:
        return "".join(pieces_of(detokenizer(llama2, context, skip_special=skip_special), word))

    assert text([]) == "fox"
    assert text([bos]) == "fox"
    assert text([bos, *word]) == " fox"
    assert text([bos], skip_special=False) == " fox"


def test_a_window_does_not_wait_forever_for_a_replacement_character(tokenizers: dict[str, Tokenizer]) -> None:
    """It holds back what ends in U+FFFD, but a model may write just that, over and over."""
    qwen = tokenizers["qwen"]
    faulty = qwen.token_id("ÿ") or 0
    pieces = pieces_of(WindowDetokenizer(qwen), [faulty] * 100)
    assert "".join(pieces) == "\ufffd" * 100
    assert max(map(len, pieces)) <= 16


@given(texts)
@example("▁▁  \ufffd")
@settings(max_examples=60)
def test_the_window_serves_the_other_families_too(tokenizers: dict[str, Tokenizer], text: str) -> None:
    for kind in FAST:
        tokenizer = tokenizers[kind]
        ids = tokenizer.encode(text)
        assert "".join(pieces_of(WindowDetokenizer(tokenizer), ids)) == tokenizer.decode(ids)
