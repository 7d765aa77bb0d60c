"""One choice of an answer while it is generated: from the engine's updates to events, or to one choice.

A choice that resumes begins where its client stands: its events go on from the tokens that the client has,
and text that those left undecided comes with the tokens that follow.

A choice that a client came back for is computed from its beginning: what the client has is compared by its
digest, and not told again.

Its generation owns it and calls it on the event loop alone. Updates gather here until somebody asks for
the next event, so a slow client costs the memory of its own output and no more.
"""

from __future__ import annotations

from baton.core.errors import Cancelled, CannotContinue
from baton.core.types import Finish, Request, TokenLogprob
from baton.engine.transcript import Transcript
from baton.openai import (
    Choice,
    ChoiceStream,
    Had,
    Prompt,
    ServedModel,
    Shape,
    Usage,
    choice_stream,
    digest_of,
)
from baton.openai.bookmark import HEADER
from baton.protocol.engine import Course, Update


class OpenSequence:
    """One choice of an answer: what the engine said of it and the client has not been sent."""

    __slots__ = (
        "_delivered",
        "_had",
        "_ids",
        "_logprobs",
        "_offsets",
        "_shape",
        "_stop",
        "_stream",
        "_texts",
        "_told",
        "cached",
        "course",
        "finish",
        "index",
        "last",
        "model",
        "prompt",
        "prompt_logprobs",
        "request",
        "transcript",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        index: int,
        prompt: Prompt,
        shape: Shape,
        model: ServedModel,
        eos: frozenset[int],
        *,
        ended: bool = False,
        had: Had | None = None,
    ) -> None:
        """`ended`: the client has all of it, so that only its tokens are counted."""
        self._had = had
        self._delivered = request.generated
        self.request = request
        self.index = index
        self.prompt = prompt
        self.model = model
        enders = frozenset() if request.sampling.ignore_eos else eos
        self.transcript = Transcript(request.sampling, model.tokenizer, enders, request.token_ids)
        if ended:
            self.transcript.generated = len(request.generated)
        else:
            self._told = self.transcript.resume(request.generated)
        self.finish: Finish | None = None
        self.cached = 0
        """Tokens of the prompt that were not computed again."""
        self.prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
        self.course = Course()
        """What is known of when what happened to it."""
        self.last = 0.0
        """When its newest token came."""
        self.waiting = False
        """Listed by its generation as having something new."""
        self._shape = shape
        self._stop: str | int | None = None
        self._stream: ChoiceStream | None = None
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._offsets: list[int] = []

    def take(self, update: Update) -> None:
        """What the engine says; raises the error that it reports."""
        delta = self.transcript.take(update)
        if delta.finish in (Finish.ABORT, Finish.ERROR):
            raise Cancelled("the request was ended by an operator")
        if delta.text:
            self._texts.append(delta.text)
        self._ids += delta.token_ids
        if delta.logprob is not None:
            self._logprobs.append(delta.logprob)
            self._offsets.append(delta.offset)
        if update.course is not None:
            self.course.marks += update.course.marks
            self.course.prefill = update.course.prefill or self.course.prefill
            self.course.handed = max(update.course.handed, self.course.handed)
        if delta.cached is not None:
            self.cached = min(delta.cached, len(self.request.token_ids))
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = (None, *delta.prompt_logprobs)
        if delta.finish is not None:
            self.finish = delta.finish
            by = delta.stopped_by
            named = isinstance(by, str) or by in self.request.sampling.stop_token_ids
            self._stop = by if named else None
        if self._had is not None:
            self._compare(self._had)

    def _compare(self, had: Had) -> None:
        """Once as much has come as the client has, it must be the same."""
        if len(self._ids) < had.tokens and self.finish is None:
            return
        mine = Had(len(self._ids), digest_of(self._ids), self.finish is not None)
        if mine != had:
            raise CannotContinue(HEADER, "the answer came out another way this time; ask for a new one")
        self._delivered, self._told = tuple(self._ids), "".join(self._texts)
        self._texts, self._ids, self._logprobs, self._offsets = [], [], [], []
        if not had.ended:
            self._had = None

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.request.token_ids),
            completion_tokens=self.transcript.generated,
            cached_tokens=self.cached,
        )

    def event(self) -> bytes:
        """What came since the last event, as one; nothing while no text is decided, but for the first
        token, for which clients time their server."""
        if self._had is not None:
            return b""  # the client has as much, or all
        first = self._stream is None and not self._delivered
        if self._stream is None:
            self._stream = choice_stream(
                self._shape, self.model.tokenizer, self.usage, index=self.index, prompt=self.prompt,
                prompt_logprobs=self.prompt_logprobs, delivered=self._delivered,
                delivered_text=self._told, anew=not self.request.generated,
            )  # fmt: skip
        if not first and not self._texts and self.finish is None:
            return b""
        scored = self.request.sampling.logprobs is not None
        event = self._stream.chunk(
            "".join(self._texts), self._ids, logprobs=self._logprobs if scored else None,
            offsets=self._offsets, finish=self.finish, stop=self._stop,
        )  # fmt: skip
        self._texts, self._ids, self._logprobs, self._offsets = [], [], [], []
        return event

    def choice(self) -> Choice:
        """All of it, once it has ended and if no event was made."""
        assert self.finish is not None and self._stream is None
        return Choice(
            index=self.index, text="".join(self._texts), token_ids=tuple(self._ids), finish=self.finish,
            usage=self.usage, stop=self._stop, offsets=tuple(self._offsets), prompt=self.prompt,
            logprobs=tuple(self._logprobs) if self.request.sampling.logprobs is not None else None,
            prompt_logprobs=self.prompt_logprobs,
        )  # fmt: skip
