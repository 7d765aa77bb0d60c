"""Masks computed beside the steps: which are, in which lane, and that they are what they are in line."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.spawned import eventually

from baton.grammar import forms, matcher
from baton.grammar.lanes import IN_LINE_S, KEPT, MOST, Lanes, Place, beside, in_line_s, spread
from baton.grammar.matcher import Form, Grammars, Matcher
from baton.tiny import model_path
from baton.tokens import Tokenizer

TOKENIZER = Tokenizer.load(model_path())
VOCAB = 1600
STRING = forms.json_schema({"type": "string", "maxLength": 900})
SAID = TOKENIZER.encode(json.dumps("the cat sat on the mat, and who was there?"))


def grammars(lanes: int = 2, **more: Any) -> Grammars:
    return Grammars(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids, lanes=lanes, **more)


def collected(made: Grammars, matchers: Sequence[Matcher]) -> list[bytes]:
    """Their masks, computed beside."""
    made.begin(matchers)
    eventually(lambda: (made.collect(1.0), not made.making)[1])
    assert all(matcher.made for matcher in matchers)
    return [mask.tobytes() for mask in made.masks(matchers)]


def place(grammar: str = "a", lane: int | None = None, seconds: float = 1.0, moves: bool = True) -> Place:
    return Place(grammar, (), None, 1, lane, moves, seconds)  # type: ignore[arg-type]


def test_what_is_cheap_stays_in_line() -> None:
    assert not beside([]) and not beside([IN_LINE_S / 64] * 63)
    assert beside([IN_LINE_S / 64] * 65) and beside([0.0, IN_LINE_S * 2])
    assert in_line_s(0.0) == in_line_s(2 * IN_LINE_S) == IN_LINE_S
    assert IN_LINE_S < in_line_s(0.3) < 0.3, "a small part of a long step"
    assert not beside([in_line_s(0.3)], in_line_s(0.3))


def test_all_lanes_have_the_same_to_do() -> None:
    assert sorted(spread([place() for _ in range(8)], [0.0] * 4)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert spread([place(), place(), place()], [9.0, 0.0, 1.5]) == [1, 1, 2], "what they do already counts"
    one_is_slow = [place(seconds=5.0), *(place() for _ in range(5))]
    assert spread(one_is_slow, [0.0, 0.0]) == [0, 1, 1, 1, 1, 1]


def test_who_has_a_lexer_in_a_lane_stays_unless_others_would_wait() -> None:
    settled = [place(lane=1), place(lane=0), place(lane=1), place(lane=0)]
    assert spread(settled, [0.0, 0.0]) == [1, 0, 1, 0]
    assert spread([place(), *settled], [0.0, 0.0])[1:] == [1, 0, 1, 0]
    crowded = spread([place(lane=2) for _ in range(9)], [0.0, 0.0, 0.0])
    assert crowded.count(2) in (5, 6) and abs(crowded.count(0) - crowded.count(1)) <= 1


def test_a_grammar_that_is_compiled_once_is_followed_in_one_lane() -> None:
    found = spread([place(grammar, moves=False) for grammar in "abcabcabc"], [0.0] * 5)
    assert found[:3] * 3 == found


@pytest.mark.parametrize("lanes", [1, 3])
def test_masks_are_those_computed_in_line(lanes: int) -> None:
    """Token by token, in lanes and in line by turns, with others that come when some are on their way."""
    made, chance = grammars(lanes), random.Random(2)
    texts = [STRING, forms.regex('[a-z ,?"]{3,200}'), forms.json_schema({"type": ["string", "number"]})]
    followed = [(made.matcher(texts[i % 3]), made.matcher(texts[i % 3])) for i in range(5)]
    for step in range(40):
        if step % 7 == 3:
            grammar = texts[step % 3]
            followed.append((made.matcher(grammar), made.matcher(grammar)))
        beside = [one for one, _ in followed]
        in_line = [mask.tobytes() for mask in made.masks([other for _, other in followed])]
        found = collected(made, beside) if step % 5 else [mask.tobytes() for mask in made.masks(beside)]
        assert found == in_line, step
        for (one, other), mask in zip(list(followed), in_line, strict=True):
            bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
            token = int(chance.choice(np.flatnonzero(bits)))
            assert one.take(token) and other.take(token) and not one.made
            assert one.over == other.over
            if one.over:
                followed.remove((one, other))


def test_no_token_is_taken_while_a_thread_has_the_matcher() -> None:
    made = grammars()
    matcher = made.matcher(STRING)
    made.begin([matcher])
    with pytest.raises(AssertionError, match="being computed"):
        matcher.take(SAID[0])
    with pytest.raises(AssertionError, match="being computed"):
        made.masks([matcher])
    with pytest.raises(AssertionError, match="one thread"):
        made.begin([matcher])
    eventually(lambda: (made.collect(1.0), not made.making)[1])
    assert matcher.take(SAID[0])


def test_what_masks_take_is_known() -> None:
    made = grammars()
    matcher = made.matcher(STRING)
    expected = matcher.seconds
    assert expected > 0, "measured where it was compiled, for whoever begins with it"
    matcher.seconds = 9.0
    made.masks([matcher])
    assert 0 < matcher.seconds < 9.0
    matcher.seconds = 9.0
    collected(made, [matcher])
    assert 0 < matcher.seconds < 9.0
    matcher.seconds = 9.0
    made.masks([matcher])
    assert matcher.seconds == 9.0, "it was there, and took nothing"


def test_lexers_that_fill_up_are_replaced_in_lanes_as_well() -> None:
    made, chance = grammars(2, states=3000), random.Random(1)
    for _ in range(3):
        word = json.dumps("".join(chance.choice("abcdefgh ijkl") for _ in range(800)))
        matchers = [made.matcher(STRING) for _ in range(4)]
        for token in TOKENIZER.encode(word):
            for mask in collected(made, matchers):
                assert mask[token // 8] >> token % 8 & 1
            assert all(matcher.take(token) for matcher in matchers)
        assert all(matcher.over for matcher in matchers)


def test_one_answer_that_needs_too_many_states_ends_with_an_error_in_a_lane_as_well() -> None:
    made = grammars(1, states=100)
    matcher = made.matcher(STRING)
    for token in TOKENIZER.encode('"' + "abc " * 200):
        collected(made, [matcher])
        if not matcher.take(token):
            break
    assert "cannot follow its grammar any further" in matcher.wrong


def test_what_takes_long_to_compile_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "QUICK_S", 60.0)
    compiled: list[str] = []

    class Counted(Grammars):
        def fresh(self, grammar: str) -> Any:
            compiled.append(threading.current_thread().name.split("-")[0])
            return super().fresh(grammar)

    made = Counted(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids, lanes=3)
    collected(made, [made.matcher(STRING) for _ in range(6)])
    assert compiled == ["grammar", "mask", "mask", "mask"]
    made = Counted(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids, lanes=3)
    inner = made.compile(STRING).result().inner
    slow = [Form(inner.deep_copy(), compiling=61.0, first=1.0) for _ in range(3)]
    some = [Matcher(STRING, form, lambda: made.fresh(STRING)) for form in slow]
    assert len(set(collected(made, some))) == 1
    assert all(one.take(SAID[0]) for one in some) and compiled[4:] == ["grammar"]


@pytest.mark.parametrize("at_once", [True, False])
def test_several_are_computed_at_a_time(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "QUICK_S", 60.0)  # whatever else the machine does
    together = threading.Barrier(2)

    class Meeting(Grammars):
        def fresh(self, grammar: str) -> Any:
            if threading.current_thread().name.startswith("mask-"):
                together.wait(20)
            return super().fresh(grammar)

    made = Meeting(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids, lanes=2)
    matchers = [made.matcher(STRING) for _ in range(2)]
    for share in [matchers] if at_once else [[one] for one in matchers]:
        made.begin(share)
    eventually(lambda: (made.collect(1.0), not made.making)[1])
    assert all(one.take(SAID[0]) for one in matchers)


def test_lanes_keep_few_lexers() -> None:
    made = grammars(1)
    for number in range(KEPT + 3):
        collected(made, [made.matcher(forms.choice([str(number)]))])
    assert made._lanes is not None and len(made._lanes._lanes[0]._lexers) == KEPT


def test_what_goes_wrong_in_a_lane_is_the_scheduler_s() -> None:
    class Broken(Grammars):
        def fresh(self, grammar: str) -> Any:
            if threading.current_thread().name.startswith("mask-"):
                raise OSError("no memory")
            return super().fresh(grammar)

    made = Broken(lambda: TOKENIZER, VOCAB, TOKENIZER.eos_ids, lanes=1)
    made.begin([made.matcher(STRING)])
    with pytest.raises(OSError, match="no memory"):
        made.collect(20.0)
    assert not made.making


def test_there_are_as_many_lanes_as_cores_leave_room_for() -> None:
    made = Lanes(lambda grammar: None, 4)  # type: ignore[arg-type, return-value]
    assert 1 <= len(made) <= MOST
