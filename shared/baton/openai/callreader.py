"""Reads the tools that a model calls out of its answer, as it comes.

What is no call stays text. A call is told when it is whole; what is held back depends on the text alone, so
whoever goes on with an answer feeds it what its client has.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from baton.openai.calls import CLOSE, LIST, OPEN, PYTHON, Call, Read, Style, read_all, read_call
from baton.openai.tags import decided

GAP = " \t\r\n;"
"""What may stand between two calls without tags."""
MOST_SPACE = 64
"""Before the first of them: what is held back is looked at again with each piece."""


class CallReader(Protocol):
    """Takes one answer's text piece by piece. Space around a call belongs to nothing."""

    def feed(self, text: str, last: bool = False) -> Read:
        """What this piece decides; `last`: nothing follows, so nothing is held back."""
        ...


def call_reader(style: Style, tools: Collection[str]) -> CallReader:
    """`tools`: of which a call names one, where no tag tells it from other JSON."""
    return Tagged() if style is Style.TAGGED else Untagged(style, tools)


class Tagged:
    """Calls anywhere in an answer."""

    __slots__ = ("_after_call", "_held")

    def __init__(self) -> None:
        self._held = ""
        self._after_call = False

    def feed(self, text: str, last: bool = False) -> Read:
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


class Untagged:
    """Calls with which an answer begins, if it has any: what comes behind them is text."""

    __slots__ = (
        "_after_call", "_begun", "_depth", "_escaped", "_held", "_opens", "_quoted", "_seen", "_tag", "_text",
        "_tools",
    )  # fmt: skip

    def __init__(self, style: Style, tools: Collection[str]) -> None:
        self._tools = frozenset(tools)
        self._opens, self._tag = ("[", LIST) if style is Style.LISTED else ("{", PYTHON)
        self._held = ""
        self._begun = self._after_call = False
        """A call has been told; and nothing behind it."""
        self._text = False
        """No other will be."""
        self._seen = self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, text: str, last: bool = False) -> Read:
        self._held += text
        if self._after_call:
            self._held = self._held.lstrip(GAP)
        calls: list[Call] = []
        while not self._text and (found := self._next()):
            calls += found
        return Read(self._passed() if self._text or last else "", tuple(calls))

    def _next(self) -> tuple[Call, ...]:
        """What the JSON says with which that begins which is held; nothing before it is whole, or is none."""
        body = self._body()
        if not body or (not self._begun and self._tag.startswith(body)):
            return ()
        end = self._end(body) if body.startswith(self._opens) else 0
        if end is None:
            return ()
        found = read_all(body[:end], self._tools)
        if found:
            self._held, self._seen = body[end:].lstrip(GAP), 0
            self._begun = self._after_call = True
        self._text = not found or self._opens == "["
        return found

    def _body(self) -> str:
        if self._begun:
            return self._held
        begun = self._held.lstrip()
        body = begun.removeprefix(self._tag).lstrip()
        return body if len(self._held) - len(body) <= MOST_SPACE + len(self._tag) else self._held

    def _passed(self) -> str:
        passed, self._held = self._held, ""
        self._after_call = self._after_call and not passed
        return passed

    def _end(self, body: str) -> int | None:
        """Where the bracket closes that opens it. Each character is looked at once."""
        for at in range(self._seen, len(body)):
            self._look(body[at])
            if not self._depth:
                return at + 1
        self._seen = len(body)
        return None

    def _look(self, char: str) -> None:
        if self._quoted:
            self._quoted = char != '"' or self._escaped
            self._escaped = char == "\\" and not self._escaped
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        else:
            self._quoted = char == '"'
