"""What an answer's text says, as far as its request wants that told apart: thoughts, content, calls."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple

from baton.core.types import Finish
from baton.openai.callreader import call_reader
from baton.openai.calls import Style
from baton.openai.reasoning import Splitter
from baton.openai.shape import Shape

CALLED = "tool_calls"
"""The finish reason of an answer that ends with its calls."""


class Said(NamedTuple):
    thought: str
    content: str
    calls: list[dict[str, Any]]
    """As OpenAI writes them in a message."""


class Reader:
    """Of one choice; takes its text piece by piece."""

    __slots__ = ("_calls", "_choice", "_shape", "_splitter", "called")

    def __init__(self, shape: Shape, choice: int) -> None:
        self._shape = shape
        self._choice = choice
        self._splitter = None
        if shape.reasoning is not None:
            self._splitter = Splitter(shape.reasoning, whole=shape.thought_whole)
        self._calls = None if shape.calls is None else call_reader(shape.calls, shape.tools)
        self.called = 0
        """How many calls were told."""

    def feed(self, text: str, last: bool = False) -> Said:
        thought = ""
        if self._splitter is not None:
            thought, text = self._splitter.feed(text, last)
            thought = thought if self._shape.thoughts else ""
        if self._calls is None:
            return Said(thought, text, [])
        read = self._calls.feed(text, last)
        most = 1 - self.called if self._shape.one_call else len(read.calls)
        calls = [self._call(*call) for call in read.calls[:most]]
        return Said(thought, read.text, calls)

    def finish(self, finish: Finish | None) -> Finish | str | None:
        return CALLED if self.called and finish is Finish.STOP else finish

    def _call(self, name: str, arguments: str) -> dict[str, Any]:
        # The same id wherever a stream goes on.
        about = f"{self._shape.id}/{self._choice}/{self.called}".encode()
        digest = blake2b(about, digest_size=12, person=b"baton.call").hexdigest()
        # Mistral's templates take ids of nine characters alone, and no others.
        id = digest[:9] if self._shape.calls is Style.LISTED else f"call_{digest}"
        self.called += 1
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
