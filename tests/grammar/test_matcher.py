"""Matchers, and the masks that they fill."""

from __future__ import annotations

import json
import random
import threading

import numpy as np
import pytest
from tests.spawned import eventually

from baton.core.errors import InvalidField, UnsupportedModel
from baton.grammar import forms
from baton.grammar.matcher import KEPT, Grammars, Matcher
from baton.tiny import model_path
from baton.tokens import Tokenizer

TOKENIZER = Tokenizer.load(model_path())
VOCAB = 1600
"""More than the tokenizer has."""


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids)


def allowed(grammars: Grammars, matcher: Matcher) -> set[str]:
    bits = np.unpackbits(grammars.masks([matcher])[0], bitorder="little")
    assert len(bits) == 1600 and not bits[TOKENIZER.size :].any()
    return {TOKENIZER.token(int(id)) for id in np.flatnonzero(bits)}


def test_masks_tell_what_may_come_next(grammars: Grammars) -> None:
    matcher = grammars.matcher(forms.regex("a[bc]?"))
    assert allowed(grammars, matcher) == {"a", "ab"}
    assert matcher.take(TOKENIZER.encode("a")[0]) and not matcher.over
    ends = {TOKENIZER.token(id) for id in TOKENIZER.eos_ids}
    assert allowed(grammars, matcher) == {"b", "c"} | ends
    assert matcher.take(TOKENIZER.encode("b")[0]) and matcher.over and not matcher.wrong


def test_rows_of_masks_are_their_matchers(grammars: Grammars) -> None:
    some = [grammars.matcher(forms.choice([word])) for word in ("x", "y", "z")]
    masks = grammars.masks(some)
    assert masks.shape == (3, grammars.mask_bytes)
    for matcher, mask in zip(some, masks, strict=True):
        assert np.array_equal(grammars.masks([matcher])[0], mask)
    assert len({mask.tobytes() for mask in masks}) == 3


def test_an_answer_s_end_is_allowed_where_it_may_end(grammars: Grammars) -> None:
    matcher = grammars.matcher(forms.regex("a*"), TOKENIZER.encode("aa"))
    assert matcher.take(TOKENIZER.eos_ids[0]) and matcher.over


def test_what_was_generated_is_followed_first(grammars: Grammars) -> None:
    digits = forms.regex("[0-9]{3}")
    had = TOKENIZER.encode("12")
    assert allowed(grammars, grammars.matcher(digits, had)) <= set("0123456789")
    with pytest.raises(InvalidField, match="generated: does not follow"):
        grammars.matcher(digits, TOKENIZER.encode("x"))


def test_what_is_not_allowed_is_not_taken(grammars: Grammars) -> None:
    matcher = grammars.matcher(forms.choice(["yes"]))
    assert not matcher.take(TOKENIZER.encode("no")[0])
    assert "cannot follow its grammar" in matcher.wrong


def test_two_answers_of_one_grammar_go_their_own_ways(grammars: Grammars) -> None:
    either = forms.choice(["ab", "ba"])
    one, other = grammars.matcher(either), grammars.matcher(either)
    one.take(TOKENIZER.encode("a")[0])
    assert allowed(grammars, other) >= {"a", "b"} and allowed(grammars, one) == {"b"}


def test_compiling_holds_nobody_up() -> None:
    may_go = threading.Event()

    def slow() -> Tokenizer:
        may_go.wait(10)
        return TOKENIZER

    grammars, word = Grammars(slow, VOCAB, ()), forms.choice(["yes"])
    assert not grammars.compile(word).done()
    may_go.set()
    eventually(lambda: grammars.compile(word).done())
    assert grammars.matcher(word).take(TOKENIZER.encode("yes")[0])


def test_answers_that_share_a_lexer_do_not_fill_it_for_each_other() -> None:
    """Its states add up; when there are too many, each goes on with another from where it was."""
    grammars = Grammars(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids, states=3000)
    text, chance = forms.json_schema({"type": "string", "maxLength": 900}), random.Random(1)
    failed = grammars.matcher(text)
    for _ in range(12):
        word = json.dumps("".join(chance.choice("abcdefgh ijkl") for _ in range(800)))
        matchers = [grammars.matcher(text) for _ in range(3)]
        for token in TOKENIZER.encode(word):
            masks = grammars.masks(matchers)
            assert all(mask[token // 8] >> token % 8 & 1 for mask in masks)
            assert all(matcher.take(token) for matcher in matchers)
        assert all(matcher.over for matcher in matchers)
    assert failed.take(TOKENIZER.encode('"')[0]) and not failed.over


def test_one_answer_that_needs_too_many_states_ends_with_an_error() -> None:
    grammars = Grammars(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids, states=100)
    matcher = grammars.matcher(forms.json_schema({"type": "string", "maxLength": 900}))
    for token in TOKENIZER.encode('"' + "abc " * 200):
        grammars.masks([matcher])
        if not matcher.take(token):
            break
    assert "cannot follow its grammar any further" in matcher.wrong
    assert not matcher.take(TOKENIZER.eos_ids[0]), "which a mask allows then, and is no end"


def test_no_more_are_kept_than_are_used(grammars: Grammars) -> None:
    for number in range(KEPT + 20):
        grammars.matcher(forms.choice([str(number)]))
    assert repr(grammars) == f"Grammars({KEPT} compiled)"


@pytest.mark.parametrize("error", [UnsupportedModel("there is no file"), OSError("there is no file")])
def test_without_a_tokenizer_there_is_no_grammar(error: Exception) -> None:
    def none() -> Tokenizer:
        raise error

    with pytest.raises(InvalidField, match="grammar: cannot be followed: there is no file"):
        Grammars(none, VOCAB, ()).matcher(forms.regex("a"))
