"""Reads the tools that a model calls out of its answer: JSON between `<tool_call>` and `</tool_call>`.

So do Qwen and Hermes models, as their chat templates tell them to: by a template that knows the tag a service
knows such a model. What is between the tags and is no call stays text, tags and all. A call is told when it
is whole; what is held back depends on the text alone, so whoever goes on with an answer feeds it what its
client has.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from baton.openai.tags import decided

OPEN, CLOSE = "<tool_call>", "</tool_call>"


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
_decode = msgspec.json.Decoder(_Written).decode


class CallReader:
    """Takes one answer's text piece by piece. Space around a call belongs to nothing."""

    __slots__ = ("_after_call", "_held")

    def __init__(self) -> None:
        self._held = ""
        self._after_call = False

    def feed(self, text: str, last: bool = False) -> Read:
        """What this piece decides; `last`: nothing follows, so nothing is held back."""
        self._held += text
        texts: list[str] = []
        calls: list[Call] = []
        while True:
            begin = self._held.find(OPEN)
            end = self._held.find(CLOSE, begin + len(OPEN)) if begin >= 0 else -1
            if end < 0:
                break
            call = read_call(self._held[begin + len(OPEN) : end])
            if call is None:
                texts.append(self._passed(end + len(CLOSE)))
            else:
                texts.append(self._passed(begin).rstrip())
                self._held = self._held[end + len(CLOSE) - begin :]
                calls.append(call)
                self._after_call = True
        texts.append(self._passed(len(self._held) if last else self._decided()))
        return Read("".join(texts), tuple(calls))

    def _decided(self) -> int:
        """How much of what is held is text, whatever follows."""
        begin = self._held.find(OPEN)
        return decided(self._held, OPEN) if begin < 0 else len(self._held[:begin].rstrip())

    def _passed(self, end: int) -> str:
        passed, self._held = self._held[:end], self._held[end:]
        if self._after_call:
            passed = passed.lstrip()
            self._after_call = not passed
        return passed


def read_call(text: str) -> Call | None:
    try:
        written = _decode(text)
        arguments = bytes(written.arguments or written.parameters or _NONE).strip()
        if arguments.startswith(b'"'):
            return Call(written.name, msgspec.json.decode(arguments, type=str))
        return Call(written.name, (_NONE if arguments == b"null" else arguments).decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
