"""How models write the calls of tools, and one call out of such a text.

A chat template tells its model how to call, so by the template a service knows. Three ways are read: JSON
between two tags, anywhere in an answer (Qwen, Hermes); answers that begin with such JSON (Llama 3) or with a
list of it (Mistral).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import NamedTuple

import msgspec

from baton.grammar.frame import Frame

OPEN, CLOSE = "<tool_call>", "</tool_call>"
LIST = "[TOOL_CALLS]"
PYTHON = "<|python_tag|>"


class Style(Enum):
    TAGGED = "tagged"
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`"""
    BARE = "bare"
    """`{"name": …, "parameters": …}`, several with `;` between them"""
    LISTED = "listed"
    """`[TOOL_CALLS] [{"name": …, "arguments": …}, …]`"""


def style_of(mentions: Callable[[str], bool]) -> Style | None:
    """`mentions`: whether the template has these words."""
    if mentions(OPEN):
        return Style.TAGGED
    if mentions(LIST):  # later templates of Mistral's write each call between tokens of its own
        return None if mentions("[ARGS]") else Style.LISTED
    return Style.BARE if mentions('"parameters": ') and mentions("ipython") else None


FRAMES = {
    Style.TAGGED: Frame(opens=OPEN, closes=CLOSE),
    Style.BARE: Frame(between=";", arguments="parameters"),
    Style.LISTED: Frame(begins="[", between=",", ends="]"),
}
"""What is asked of models that are made to call; those of the last two leave out a tag that is no text."""


class Call(NamedTuple):
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class Read(NamedTuple):
    text: str
    calls: tuple[Call, ...]


class _Written(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"")
    """What some models write instead."""


_NONE = b"{}"
_call = msgspec.json.Decoder(_Written).decode
_calls = msgspec.json.Decoder(list[_Written]).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_WRONG = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_call(text: str) -> Call | None:
    try:
        return _read(_call(text))
    except _WRONG:
        return None


def read_all(text: str, tools: Collection[str]) -> tuple[Call, ...]:
    """One call or a list of them, of these tools and with arguments: as nothing else tells it from JSON."""
    try:
        written = _calls(text) if text.startswith("[") else [_call(text)]
        if not all(one.name in tools and (one.arguments or one.parameters) for one in written):
            return ()
        found = tuple([_read(one) for one in written])
        for one in found:
            _object(one.arguments)
        return found
    except _WRONG:
        return ()


def _read(written: _Written) -> Call:
    arguments = bytes(written.arguments or written.parameters or _NONE).strip()
    if arguments.startswith(b'"'):
        return Call(written.name, msgspec.json.decode(arguments, type=str))
    return Call(written.name, (_NONE if arguments == b"null" else arguments).decode())
