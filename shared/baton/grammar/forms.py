"""Grammars as text: made of what clients send, checked, and put behind a thought.

The text is llguidance's JSON of one or several grammars. Every function raises `NoGrammar`, which says what
is wrong, for what cannot be compiled. Pure; a grammar takes about a millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

LONGEST = 1 << 18
"""Characters of a grammar: it goes to every pod that serves the request."""
SPACE = r" |\r?\n( {0,32}|\t{0,8})"
"""Between two parts of a JSON text: a model that may go on with space does so, some for ever."""
OPEN, CLOSE = "<think>", "</think>"


class NoGrammar(Exception):
    """It cannot be compiled."""


def json_schema(schema: Any) -> str:
    """JSON of this schema, which may be text itself."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise NoGrammar(f"is no JSON: {error}") from error
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise NoGrammar(f"must be a JSON schema, an object, not {type(schema).__name__}")
    return _checked(LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": SPACE}))


def calls(tools: Mapping[str, Any], opens: str, closes: str, *, several: bool) -> str:
    """One call of these tools, or `several`, each between two tags of text. `tools`: name → schema of its
    arguments."""
    made: list[dict[str, Any]] = []
    for place, (name, schema) in enumerate(tools.items()):
        try:
            (call,) = json.loads(json_schema(_call(name, schema)))["grammars"]
        except NoGrammar as error:
            raise NoGrammar(f"{name}: {error}") from error
        made.append({**call, "name": f"tool{place}"})
    choices = " | ".join(f"@{one['name']}" for one in made)
    start = "call (space call)*" if several else "call"
    call = f"{_quoted(opens)} space ({choices}) space {_quoted(closes)}"
    lark = f"start: {start}\ncall: {call}\nspace: /[ \\n]{{0,2}}/\n"
    return _checked(json.dumps({"grammars": [{"lark_grammar": lark}, *made]}))


def _call(name: str, schema: Any) -> dict[str, Any]:
    """What a schema refers to in itself, it refers to from the outermost one."""
    schema = {"type": "object"} if schema is None else schema
    shared = {
        key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema
    }
    return {
        **shared,
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": schema},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def json_object() -> str:
    return json_schema({"type": "object"})


def regex(pattern: str) -> str:
    """The whole answer matches."""
    if not pattern:
        raise NoGrammar("is empty")
    return _checked(LLMatcher.grammar_from_regex(pattern))


def choice(options: Sequence[str]) -> str:
    """One of these."""
    if not options or not all(options):
        raise NoGrammar("needs one text or more, none of them empty")
    return _lark("start: " + " | ".join(map(_quoted, options)))


def ebnf(text: str) -> str:
    """A grammar in Lark's notation, or in GBNF (`root ::= …`), which most call EBNF."""
    try:
        return _lark(any_to_lark(text))
    except NoGrammar:
        raise
    except Exception as error:  # the library's converter raises bare ones
        raise NoGrammar(f"is neither GBNF nor Lark: {error}") from error


def after_thought(grammar: str, *, begun: bool, special: bool) -> str:
    """The answer alone follows the grammar: a thought may come before it, or must end if it has `begun`.
    `special`: the tags are special tokens of the model, not text."""
    if special:
        opened, thought = OPEN, f"inside {CLOSE}\ninside: /(?s:.*)/"
    else:
        opened, thought = _quoted(OPEN), "inside\ninside[lazy]: /(?s:.*)<\\/think>/"
    start = "thought" if begun else f"({opened} thought)?"
    lark = f"start: {start} space @answer\nthought: {thought}\nspace: /[ \\n]{{0,4}}/\n"
    answer, *rest = json.loads(grammar)["grammars"]
    whole = json.dumps({"grammars": [{"lark_grammar": lark}, {**answer, "name": "answer"}, *rest]})
    return whole if special else _checked(whole)  # where there is no tokenizer, such tokens are not known


def _lark(text: str) -> str:
    return _checked(json.dumps({"grammars": [{"lark_grammar": text}]}))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@lru_cache(maxsize=64)
def _checked(grammar: str) -> str:
    if len(grammar) > LONGEST:
        raise NoGrammar(f"has {len(grammar)} characters, more than {LONGEST}")
    try:
        wrong = LLMatcher.validate_grammar(grammar)
    except ValueError as error:
        raise NoGrammar(str(error)) from error
    if wrong and not wrong.startswith("WARNING"):
        raise NoGrammar(wrong.strip())
    return grammar
