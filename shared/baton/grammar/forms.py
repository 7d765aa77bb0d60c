"""Grammars as text: made of what clients send, and put behind a thought.

The text is llguidance's JSON of one or several grammars. Functions raise `NoGrammar`, which says what is
wrong, for what is none at sight; whether it compiles, and how soon, the `checker` finds out. Pure and quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from baton.grammar.frame import Frame

LONGEST = 1 << 17
"""Characters of a grammar: it goes to every pod that serves the request."""
SPACE = r" |\r?\n( {0,32}|\t{0,8})"
"""Between two parts of a JSON text: a model that may go on with space does so, some for ever."""


class NoGrammar(Exception):
    """It cannot be one."""


def json_schema(schema: Any) -> str:
    """JSON of this schema, which may be text itself."""
    return _whole(_json(schema))


def json_object() -> str:
    return json_schema({"type": "object"})


def calls(tools: Mapping[str, Any], frame: Frame, *, several: bool) -> str:
    """One call of these tools, or `several`. `tools`: name → schema of its arguments, each a grammar of its
    own, so that what it refers to in itself is found."""
    schemas = [{"type": "object"} if schema is None else schema for schema in tools.values()]
    made = [{**_json(schema), "name": f"args{place}"} for place, schema in enumerate(schemas)]
    key = frame.arguments
    rules = [f"tool{place}: {_call(name, key, f'@args{place}')}" for place, name in enumerate(tools)]
    choices = " | ".join(f"tool{place}" for place in range(len(tools)))
    call = _words(frame.opens, f"edge ({choices}) edge", frame.closes)
    more = f"({_words('', 'edge', frame.between)} call)*" if several else ""
    start = _words(frame.begins, f"edge call {more} edge" if frame.ends else f"call {more}", frame.ends)
    space = ["edge: /[ \\n]{0,2}/", f"space: /({SPACE})?/"]
    lark = "\n".join([f"start: {start}", f"call: {call}", *rules, *space]) + "\n"
    return _whole({"lark_grammar": lark}, *made)


def _words(first: str, rule: str, last: str) -> str:
    return " ".join([*([_quoted(first)] if first else []), rule, *([_quoted(last)] if last else [])])


def _call(name: str, key: str, arguments: str) -> str:
    """JSON of a call, as a rule."""
    words = ("{", '"name"', ":", json.dumps(name), ",", json.dumps(key), ":", None, "}")
    return " space ".join([arguments if word is None else _quoted(word) for word in words])


def regex(pattern: str) -> str:
    """The whole answer matches."""
    if not pattern:
        raise NoGrammar("is empty")
    try:
        (made,) = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"]
    except ValueError as error:  # halves of surrogate pairs
        raise NoGrammar(f"is no text: {error}") from error
    return _whole(made)


def choice(options: Sequence[str]) -> str:
    """One of these."""
    if not options or not all(options):
        raise NoGrammar("needs one text or more, none of them empty")
    # One terminal: as rules they are so many items of a row, of which there may be some thousand.
    return _whole({"lark_grammar": "start: CHOICE\nCHOICE: " + " | ".join(map(_quoted, options))})


def ebnf(text: str) -> str:
    """A grammar in Lark's notation, or in GBNF (`root ::= …`), which most call EBNF."""
    if len(text) > LONGEST:
        raise NoGrammar(f"has {len(text)} characters, more than {LONGEST}")
    try:
        return _whole({"lark_grammar": any_to_lark(text)})
    except Exception as error:  # the library's converter raises bare ones
        raise NoGrammar(f"is neither GBNF nor Lark: {error}") from error


def after_thought(grammar: str, opens: str, closes: str, *, begun: bool, special: bool) -> str:
    """The answer alone follows the grammar: a thought may come before it between its tags, or must end if it
    has `begun`. `special`: the tags are special tokens of the model, not text."""
    if special:
        opened, thought = opens, f"inside {closes}\ninside: /(?s:.*)/"
    else:
        end = closes.replace("/", r"\/")
        opened, thought = _quoted(opens), f"inside\ninside[lazy]: /(?s:.*){end}/"
    start = "thought" if begun else f"({opened} thought)?"
    lark = f"start: {start} space @answer\nthought: {thought}\nspace: /[ \\n]{{0,4}}/\n"
    answer, *rest = json.loads(grammar)["grammars"]
    return _whole({"lark_grammar": lark}, {**answer, "name": "answer"}, *rest)


def _json(schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise NoGrammar(f"is no JSON: {error}") from error
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise NoGrammar(f"must be a JSON schema, an object, not {type(schema).__name__}")
    return {"json_schema": {**schema, "x-guidance": {"whitespace_pattern": SPACE}}}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _whole(*parts: dict[str, Any]) -> str:
    try:
        made = json.dumps({"grammars": parts}, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise NoGrammar(f"cannot be written as JSON: {error}") from error
    if len(made) > LONGEST:
        raise NoGrammar(f"has {len(made)} characters, more than {LONGEST}")
    return made
