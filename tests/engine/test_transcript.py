"""Updates become text: stops across tokens, min_tokens, unfinished characters, and errors as their own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.tokens import checkpoints

from baton.core.errors import (
    BatonError,
    Failed,
    InvalidField,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    Refused,
    WorkerDied,
)
from baton.core.types import Finish, SamplingParams, TokenLogprob
from baton.engine.transcript import Delta, Transcript, error_of
from baton.protocol.engine import Update
from baton.tiny import model_path
from baton.tokens.tokenizer import Tokenizer

TEXT = "Anna saw the 🙂 cat; the cat saw naïve Anna."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(model_path())


def deltas(
    tokenizer: Tokenizer | None, ids: list[int], last: Finish | None = Finish.LENGTH,
    eos: frozenset[int] = frozenset(), **sampling: object,
) -> list[Delta]:  # fmt: skip
    """What comes of these tokens, up to the one that finishes."""
    params = SamplingParams(**{"max_tokens": 1000, **sampling})  # type: ignore[arg-type]
    transcript = Transcript(params, tokenizer, eos)
    made = []
    for i, token in enumerate(ids):
        finish = last if i + 1 == len(ids) else None
        made.append(transcript.take(Update("r", token, finish=finish.value if finish else None)))
        if transcript.finish is not None:
            break
    assert transcript.generated == len(made) and transcript.finish is made[-1].finish
    return made


def text(made: list[Delta]) -> str:
    return "".join(delta.text for delta in made)


def tokens_until(tokenizer: Tokenizer, ids: list[int], want: str) -> int:
    """How many tokens it takes until their text contains `want`."""
    return next(n for n in range(1, len(ids) + 1) if want in tokenizer.decode(ids[:n]))


def test_without_stops_the_text_is_the_decoded_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    made = deltas(tokenizer, ids)
    assert text(made) == TEXT
    assert [delta.token_ids for delta in made] == [(token,) for token in ids]
    assert [delta.finish for delta in made] == [None] * (len(ids) - 1) + [Finish.LENGTH]
    assert made[-1].stopped_by is None
    assert not any("�" in delta.text for delta in made), "characters of several tokens come whole"
    assert any(not delta.text for delta in made), "the emoji was meant to take several tokens"


@pytest.mark.parametrize("include", [False, True])
def test_every_stop_string_cuts_at_its_first_end(tokenizer: Tokenizer, include: bool) -> None:
    """All substrings up to nine characters, most of which cross the borders of tokens."""
    ids = tokenizer.encode(TEXT)
    for start, length in itertools.product(range(len(TEXT)), (1, 2, 3, 5, 9)):
        stop = TEXT[start : start + length]
        made = deltas(tokenizer, ids, stop=(stop,), include_stop_str_in_output=include)
        end = TEXT.index(stop) + (len(stop) if include else 0)
        assert text(made) == TEXT[:end], stop
        assert (made[-1].finish, made[-1].stopped_by) == (Finish.STOP, stop)
        assert len(made) == tokens_until(tokenizer, ids, stop), "no token later than needed"


def test_a_beginning_that_does_not_go_on_is_given_out(tokenizer: Tokenizer) -> None:
    for stop in ("the dog", "Anna.!", "cat saw the"):
        made = deltas(tokenizer, tokenizer.encode(TEXT), stop=(stop,))
        assert text(made) == TEXT and made[-1].finish is Finish.LENGTH and made[-1].stopped_by is None


def test_nothing_of_a_stop_is_shown_before_it_is_decided(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for prefix in itertools.accumulate(delta.text for delta in deltas(tokenizer, ids, stop=("the cat saw",))):
        assert prefix in TEXT[: TEXT.index("the cat saw")]


def test_text_before_min_tokens_stops_nothing(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for floor in range(len(ids)):
        made = deltas(tokenizer, ids, stop=("a",), min_tokens=floor, include_stop_str_in_output=True)
        free = len(text(deltas(tokenizer, ids[:floor], last=None))) if floor else 0
        at = TEXT.find("a", free)
        assert text(made) == (TEXT[: at + 1] if at >= 0 else TEXT), floor
        assert len(made) > floor


def test_a_stop_may_not_begin_before_min_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    begun = tokens_until(tokenizer, ids, "the 🙂 c") - 1
    made = deltas(tokenizer, ids, stop=("the 🙂 cat",), min_tokens=begun)
    assert text(made) == TEXT and made[-1].finish is Finish.LENGTH


@pytest.mark.parametrize("stop", ["saw", "Anna.", "�"])
def test_a_stop_that_ends_with_the_text_counts(tokenizer: Tokenizer, stop: str) -> None:
    """Also when only the end decides the last characters."""
    ids = tokenizer.encode("x 🙂")[:-1] if stop == "�" else tokenizer.encode(TEXT[: TEXT.rindex(stop)] + stop)
    last = deltas(tokenizer, ids, stop=("zzz", stop))[-1]
    assert (last.finish, last.stopped_by) == (Finish.STOP, stop)


def test_an_unfinished_character_becomes_a_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("x 🙂")
    assert text(deltas(tokenizer, ids[:-1])) == "x �"
    assert text(deltas(tokenizer, ids[:-1], last=None)) == "x "


@pytest.mark.parametrize("held", [(), ("naïve Anna.!",)])
def test_an_ender_is_no_text_and_lets_out_what_was_held(tokenizer: Tokenizer, held: tuple[str, ...]) -> None:
    ids = tokenizer.encode(TEXT)
    ender = tokenizer.eos_ids[0]
    by_eos = deltas(tokenizer, [*ids, ender], last=Finish.STOP, eos=frozenset([ender]), stop=held)
    by_token = deltas(tokenizer, [*ids, ids[0]], last=Finish.STOP, stop_token_ids=(ids[0],), stop=held)
    for made, token in ((by_eos, ender), (by_token, ids[0])):
        assert text(made) == TEXT
        assert (made[-1].stopped_by, made[-1].token_ids) == (token, (token,))


def test_a_stop_token_in_the_middle_is_text(tokenizer: Tokenizer) -> None:
    """Before min_tokens the engine lets none through; one that comes with `ignore_eos` is not an end."""
    made = deltas(tokenizer, tokenizer.encode("the cat"), eos=frozenset(tokenizer.encode("the cat")))
    assert text(made) == "the cat"


def test_special_tokens_show_on_request(tokenizer: Tokenizer) -> None:
    special = min(tokenizer.special_ids)
    ids = [*tokenizer.encode("a"), special, *tokenizer.encode("b")]
    assert text(deltas(tokenizer, ids)) == "ab"
    shown = text(deltas(tokenizer, ids, skip_special_tokens=False))
    assert shown == f"a{tokenizer.token(special)}b"


def test_an_abort_ends_with_what_is_known(tokenizer: Tokenizer) -> None:
    transcript = Transcript(SamplingParams(stop=("cats",)), tokenizer, frozenset())
    shown = "".join(transcript.take(Update("r", token)).text for token in tokenizer.encode("the cat"))
    last = transcript.take(Update("r", finish="abort"))
    assert shown + last.text == "the cat" and last.finish is Finish.ABORT and last.token_ids == ()


def test_what_comes_with_a_token_is_passed_on(tokenizer: Tokenizer) -> None:
    one = TokenLogprob(5, -0.5, 1)
    transcript = Transcript(SamplingParams(), tokenizer, frozenset())
    delta = transcript.take(Update("r", 40, logprob=one, cached=16, scores=(one, one)))
    assert (delta.logprob, delta.cached, delta.prompt_logprobs) == (one, 16, (one, one))


def test_without_a_tokenizer_there_are_ids_and_no_text() -> None:
    made = deltas(None, [3, 4], last=Finish.STOP, eos=frozenset([4]))
    assert text(made) == "" and made[-1].stopped_by == 4
    with pytest.raises(InvalidField, match="stop: needs a tokenizer"):
        Transcript(SamplingParams(stop=("a",)), None, frozenset())


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (PromptTooLong("prompt", "has 9 tokens; at most 8"), "prompt"),
        (InvalidField("logit_bias", "token 7 is outside"), "logit_bias"),
        (InvalidRequest("no"), None),
        (QueueFull("4 wait"), None),
    ],
)
def test_refusals_come_back_as_what_they_were(error: Exception, field: str | None) -> None:
    code = error.code  # type: ignore[attr-defined]
    transcript = Transcript(SamplingParams(), None, frozenset())
    with pytest.raises(type(error)) as raised:
        transcript.take(Update("r", finish="error", error=str(error), code=code, field=field))
    assert str(raised.value) == str(error)
    assert getattr(raised.value, "field", None) == field


def test_unknown_failures_keep_their_code() -> None:
    error = error_of(Update("r", finish="error", error="rank 1 exploded", code="new_in_a_later_version"))
    assert isinstance(error, Failed) and error.code == "new_in_a_later_version"
    assert Failed.code == "failed", "the class is left alone"


def test_a_word_after_a_prompt_keeps_its_space(tmp_path: Path) -> None:
    llama2 = Tokenizer.load(checkpoints.write(tmp_path, "llama2"))
    prompt, words = llama2.encode("The quick"), llama2.encode("brown fox", add_special=False)

    def text(prompt: list[int]) -> str:
        transcript = Transcript(SamplingParams(), llama2, frozenset(), prompt)
        finishes = [None] * (len(words) - 1) + ["length"]
        news = [Update("a", token, finish=end) for token, end in zip(words, finishes, strict=True)]
        return "".join(transcript.take(one).text for one in news)

    assert (text(prompt), text([])) == (" brown fox", "brown fox")


def test_each_token_knows_where_it_begins(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    offsets = [delta.offset for delta in deltas(tokenizer, ids)]
    assert offsets == [len(tokenizer.decode(ids[:place]).rstrip("\ufffd")) for place in range(len(ids))]


@pytest.mark.parametrize("error", [WorkerDied("rank 0 is gone"), Refused("no prefill worker is ready")])
def test_failures_keep_their_status(error: BatonError) -> None:
    made = error_of(Update("a", finish="error", error=str(error), code=error.code))
    assert (type(made), str(made), made.status) == (type(error), str(error), 503)
