"""What grammars let through, by a tokenizer whose tokens are bytes; and what cannot be compiled says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from baton.grammar import forms
from baton.grammar.forms import NoGrammar
from baton.grammar.frame import Frame

THINK, THOUGHT, END = 256, 257, 258
TAGS = ("<think>", "</think>")


class Bytes:
    """256 bytes, two tags that are special tokens, and the end."""

    def __init__(self) -> None:
        self.tokens = [*(bytes([n]) for n in range(256)), b"<think>", b"</think>", b"<end>"]
        self.special_token_ids = [THINK, THOUGHT, END]
        self.eos_token_id = END
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


WORDS = LLTokenizer(TokenizerWrapper(Bytes()))
PERSON = {
    "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"], "additionalProperties": False,
}  # fmt: skip


def whole(grammar: str, *parts: str | int) -> bool:
    """Whether these texts and special tokens are an answer from end to end."""
    matcher = LLMatcher(WORDS, grammar, log_level=0)
    ids = [id for part in parts for id in ([part] if isinstance(part, int) else part.encode())]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name":"Ann","age":3}', True),
        ('{"name": "Ann", "age": 3}', True),
        ('{\n    "name": "ä\\n",\n\t"age": 3\n}', True),
        ('{"name":"Ann"}', False),
        ('{"name":"Ann","age":-3}', False),
        ('{"name":"Ann","age":3,"more":1}', False),
        ('{  "name":"Ann","age":3}', False),
        ('{"name":"Ann","age":3', False),
        (" {}", False),
    ],
)
@pytest.mark.parametrize("make", [lambda: PERSON, lambda: json.dumps(PERSON)], ids=["object", "text"])
def test_json_of_a_schema(make: Callable[[], Any], text: str, right: bool) -> None:
    assert whole(forms.json_schema(make()), text) == right


def test_any_object_and_anything() -> None:
    assert whole(forms.json_object(), '{"a": [1, {"b": null}]}') and not whole(forms.json_object(), "[1]")
    assert whole(forms.json_schema(True), "[1]") and whole(forms.json_schema({}), '"a"')


def test_regular_expressions_are_of_the_whole_answer() -> None:
    number = forms.regex(r"\d+(\.\d+)?|a/b")
    assert [whole(number, text) for text in ("1", "1.5", "a/b", "1.", "x1")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_choices_are_texts_and_no_patterns() -> None:
    odd = ["yes", 'say "no"\n', "a|b", "ü", "yesterday"]
    assert all(whole(forms.choice(odd), one) for one in odd)
    assert not whole(forms.choice(odd), "a") and not whole(forms.choice(odd), "yesno")


def test_as_many_choices_as_one_likes() -> None:
    many = forms.choice([f"word {n}" for n in range(5000)])
    assert whole(many, "word 4999") and whole(many, "word 0") and not whole(many, "word 5000")


@pytest.mark.parametrize(
    "text", ['root ::= "a" [0-9]+ ("," root)?', 'start: "a" /[0-9]+/ ("," start)?'], ids=["gbnf", "lark"]
)
def test_grammars_in_two_notations(text: str) -> None:
    made = forms.ebnf(text)
    assert whole(made, "a1,a22") and not whole(made, "a1,")


def test_an_answer_after_a_thought_of_text() -> None:
    answer = forms.choice(["yes", "no"])
    begun = forms.after_thought(answer, *TAGS, begun=True, special=False)
    assert whole(begun, "hm < </thin\n</think>\n\nyes") and whole(begun, "<think>hm</think>no")
    assert not whole(begun, "yes") and not whole(begun, "hm</think>maybe")
    may = forms.after_thought(answer, *TAGS, begun=False, special=False)
    assert whole(may, "yes") and whole(may, "<think>hm</think>\n\nyes")
    assert not whole(may, "hm</think>yes") and not whole(may, "<think>yes")


def test_an_answer_after_a_thought_between_special_tokens() -> None:
    answer = forms.json_schema(PERSON)
    ann = '{"name":"Ann","age":3}'
    begun = forms.after_thought(answer, *TAGS, begun=True, special=True)
    assert whole(begun, "hm", THOUGHT, "\n\n" + ann) and not whole(begun, "hm</think>" + ann)
    may = forms.after_thought(answer, *TAGS, begun=False, special=True)
    assert whole(may, ann) and whole(may, THINK, "hm", THOUGHT, ann) and not whole(may, "hm", THOUGHT, ann)


TOOLS = {
    "find": {
        "$defs": {"n": {"type": "integer"}},
        "type": "object",
        "properties": {"what": {"$ref": "#/$defs/n"}},
    },
    "stop": None,
}


FRAME = Frame(opens="<c>", closes="</c>")


def test_calls_of_tools() -> None:
    one = forms.calls(TOOLS, FRAME, several=False)
    find = '<c>\n{"name": "find", "arguments": {"what": 3}}\n</c>'
    stop = '<c>{"name":"stop","arguments":{}}</c>'
    assert whole(one, find) and whole(one, stop)
    assert not whole(one, find.replace("3", '"a"')) and not whole(one, stop.replace("stop", "go"))
    assert not whole(one, f"{find}\n{stop}") and not whole(one, "") and not whole(one, "I look. " + find)
    some = forms.calls(TOOLS, FRAME, several=True)
    assert whole(some, find) and whole(some, f"{find}\n{stop}{stop}") and not whole(some, "")
    tree = {"type": "object", "properties": {"kid": {"$ref": "#"}}, "additionalProperties": False}
    own = forms.calls({"grow": tree}, FRAME, several=False)
    assert whole(own, '<c>{"name": "grow", "arguments": {"kid": {"kid": {}}}}</c>'), "what # means is its own"
    assert not whole(own, '<c>{"name": "grow", "arguments": {"name": "grow"}}</c>')
    thought = forms.after_thought(some, *TAGS, begun=True, special=False)
    assert whole(thought, f"hm</think>\n\n{find}") and not whole(thought, "hm</think>I look.")


def test_calls_without_tags() -> None:
    find, stop = '{"name": "find", "parameters": {"what": 3}}', '{"name": "stop", "parameters": {}}'
    bare = Frame(between=";", arguments="parameters")
    one, some = (forms.calls(TOOLS, bare, several=several) for several in (False, True))
    assert whole(one, find) and whole(some, stop) and whole(some, f"{find}; {stop};{stop}")
    assert not whole(one, f"{find};{stop}") and not whole(some, f"{find};") and not whole(some, find + stop)
    assert not whole(one, find.replace("parameters", "arguments"))
    find, stop = (call.replace("parameters", "arguments") for call in (find, stop))
    listed = Frame(begins="[", between=",", ends="]")
    one, some = (forms.calls(TOOLS, listed, several=several) for several in (False, True))
    assert whole(one, f"[{find}]") and whole(some, f"[{find}, {stop}]") and whole(some, f"[ {stop} ]")
    assert not whole(one, find) and not whole(one, f"[{find}, {stop}]")
    assert not whole(some, "[]") and not whole(some, f"[{find},]")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: forms.json_schema("{"), "is no JSON"),
        (lambda: forms.json_schema([1]), "an object, not list"),
        (lambda: forms.json_schema({"enum": ["x" * 300_000]}), "more than"),
        (lambda: forms.json_schema({"minimum": float("nan")}), "cannot be written"),
        (lambda: forms.regex(""), "empty"),
        (lambda: forms.regex("\ud800"), "is no text"),
        (lambda: forms.choice([]), "one text or more"),
        (lambda: forms.choice(["a", ""]), "none of them empty"),
        (lambda: forms.ebnf("nonsense ::="), "neither GBNF nor Lark"),
    ],
)
def test_what_is_no_grammar_at_sight_says_why(make: Callable[[], str], says: str) -> None:
    with pytest.raises(NoGrammar, match=says):
        make()
