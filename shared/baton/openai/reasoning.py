"""Tells what a model thinks from what it answers: the text between `<think>` and `</think>`, if it begins so.

Models that think say so with these tags, and their chat templates take the same out of earlier turns: by
a template that knows `</think>` a service knows such a model. Some templates open the tag themselves, at
the end of the prompt; some close it at once, where no thinking is wanted.

What a `Splitter` holds back depends on the text alone, so whoever goes on with an answer feeds it what its
client has, and neither loses nor repeats a character.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from baton.openai.tags import decided

OPEN, CLOSE = "<think>", "</think>"


class Reasoning(Enum):
    """How an answer may begin."""

    MAY = "may"
    """With an opening tag, or without."""
    BEGUN = "begun"
    """The prompt has the opening tag; some models repeat it."""


class Part(NamedTuple):
    thought: str
    answer: str


def reasoning_of(prompt: str, continued: object = "") -> Reasoning:
    """Of a prompt that a template has made; `continued`: the content of a last message that goes on."""
    within = isinstance(continued, str) and continued.rfind(OPEN) > continued.rfind(CLOSE)
    return Reasoning.BEGUN if within or prompt.rstrip().endswith(OPEN) else Reasoning.MAY


class Splitter:
    """Takes one answer's text piece by piece. Space around a thought belongs to neither part."""

    __slots__ = ("_held", "_parts", "_state", "_whole", "_without")

    def __init__(self, reasoning: Reasoning, whole: bool = False) -> None:
        """`whole`: a thought is decided when it has ended."""
        self._whole = whole
        self._parts: list[str] = []
        self._held = ""
        self._state = self._before
        self._without = self._after if reasoning is Reasoning.MAY else self._opened

    def feed(self, text: str, last: bool = False) -> Part:
        """What this piece decides; `last`: nothing follows, so nothing is held back."""
        self._held += text
        return self._state(last)

    def _before(self, last: bool) -> Part:
        begun = self._held.lstrip()
        if begun.startswith(OPEN):
            self._held = begun[len(OPEN) :]
            return self._opened(last)
        if OPEN.startswith(begun) and not last:
            return Part("", "")
        self._state = self._without
        return self._state(last)

    def _opened(self, last: bool) -> Part:
        self._held = self._held.lstrip()
        self._state = self._inside if self._held else self._opened
        return self._inside(last)

    def _inside(self, last: bool) -> Part:
        thought, tag, rest = self._held.partition(CLOSE)
        if tag:
            self._held, self._state = rest, self._closed
            return Part(self._told(thought.rstrip(), True), self._closed(last).answer)
        end = len(thought) if last else decided(thought, CLOSE)
        self._held = thought[end:]
        return Part(self._told(thought[:end], last), "")

    def _told(self, thought: str, ended: bool) -> str:
        if not self._whole:
            return thought
        self._parts.append(thought)
        return "".join(self._parts) if ended else ""

    def _closed(self, last: bool) -> Part:
        self._held = self._held.lstrip()
        self._state = self._after if self._held else self._closed
        return self._after(last)

    def _after(self, last: bool) -> Part:
        answer, self._held = self._held, ""
        return Part("", answer)
