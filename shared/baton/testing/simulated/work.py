"""One placed request while a simulated worker answers it, token by token."""

from __future__ import annotations

from typing import cast

from baton.core.errors import BatonError, CannotContinue, Failed
from baton.core.types import Finish, Request
from baton.openai import (
    DONE,
    Choice,
    ChoiceStream,
    Had,
    Usage,
    choice_stream,
    digest_of,
    response,
    usage_event,
)
from baton.openai.bookmark import HEADER
from baton.openai.shape import Prompt
from baton.protocol.placed import Placed
from baton.testing.simulated.serving import Line
from baton.testing.simulated.tokens import TokenSource, text_of, token_source
from baton.tokens.tokenizer import Tokenizer

NO_TOKENIZER = cast(Tokenizer, None)
"""Formatting plain answers asks for none."""


class Run:
    """One sequence."""

    __slots__ = (
        "cached", "delivered", "ended", "index", "last", "prompt", "request", "source", "stream", "told",
    )  # fmt: skip

    def __init__(self, index: int, request: Request, text: str | None, longest: int, vocabulary: int) -> None:
        sampling = request.sampling
        self.index = index
        self.request = request
        self.prompt = Prompt(request.token_ids, text)
        self.source = source_of(request, vocabulary)
        self.delivered = list(request.generated)
        self.told = len(self.delivered)
        room = longest - len(request.token_ids)
        self.last = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        self.ended = False
        self.cached = 0
        self.stream: ChoiceStream | None = None

    def pass_over(self, had: Had) -> bool:
        """Say nothing of what the client has. Whether it has this answer."""
        self.told = had.tokens
        self.delivered = self.source.first(had.tokens) if had.tokens <= self.last else []
        self.ended = had.tokens == self.last
        return had == Had(len(self.delivered), digest_of(self.delivered), self.ended)

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.request.token_ids), completion_tokens=self.told, cached_tokens=self.cached
        )


class Work:
    """All sequences of one request, and the line that its answer goes to."""

    def __init__(self, line: Line, placed: Placed, longest: int, vocabulary: int) -> None:
        self.line = line
        self.placed = placed
        n = placed.shape.n
        self.runs = [
            Run(index, request, placed.texts[index // n], longest, vocabulary)
            for index, request in enumerate(placed.requests)
        ]
        for run in self.runs:
            run.ended = run.index in placed.ended
        self.events = 0
        """Tokens sent so far."""

    @property
    def open(self) -> list[Run]:
        return [run for run in self.runs if not run.ended]

    def wrong(self) -> BatonError | None:
        """What is wrong with a request that resumes."""
        for run in self.runs:
            if run.delivered != run.source.first(len(run.delivered)):
                return Failed(f"choice {run.index} resumes with tokens that nobody generated")
        if self.placed.had is not None and not self.runs[0].pass_over(self.placed.had):
            return CannotContinue(HEADER, "this is another answer")
        return None

    def step(self) -> None:
        """One token for each open sequence, sent."""
        shape = self.placed.shape
        data = b""
        for run in self.open:
            token = run.source[run.told]
            if run.stream is None:
                delivered = run.delivered
                run.stream = choice_stream(
                    shape, NO_TOKENIZER, run.usage, index=run.index, prompt=run.prompt, delivered=delivered,
                    delivered_text=text_of(delivered), anew=not run.request.generated,
                )  # fmt: skip
            run.told += 1
            run.ended = run.told >= run.last
            data += run.stream.chunk(text_of([token]), [token], finish=Finish.LENGTH if run.ended else None)
            self.events += 1
        if data:
            self.line.chunk(data)

    def finish(self) -> None:
        """The end of a stream, or the whole answer."""
        shape = self.placed.shape
        if shape.stream:
            usage = Usage.total([run.usage for run in self.runs], shape.n)
            self.line.chunk((usage_event(shape, usage) if shape.include_usage else b"") + DONE)
            self.line.end()
            return
        for run in self.runs:
            run.told, run.ended = run.last, True
        self.line.answer(200, response(shape, [self._choice(run) for run in self.runs], NO_TOKENIZER))

    def _choice(self, run: Run) -> Choice:
        ids = run.source.first(run.last)
        return Choice(
            index=run.index, text=text_of(ids), token_ids=tuple(ids), finish=Finish.LENGTH, usage=run.usage,
            prompt=run.prompt,
        )  # fmt: skip


def source_of(request: Request, vocabulary: int) -> TokenSource:
    sampling = request.sampling
    return token_source(request.token_ids, None if sampling.greedy else sampling.seed, vocabulary)
