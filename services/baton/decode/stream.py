"""One HTTP request while it is generated: work → sequences → deltas → events, or one whole answer.

An endpoint opens a Generation around what is asked of the pod. The front's updates come in through
`_take`, on the event loop; one coroutine takes out what has come since it last looked. While a client
does not read, that coroutine waits for its socket and the deltas of each sequence gather in place: what
waits for a slow client is never more than its own output. No task is made per token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypedDict

from baton.core.clock import Clock
from baton.core.errors import BatonError, Failed
from baton.decode.front import Front
from baton.decode.meters import Meters
from baton.decode.sequence import OpenSequence
from baton.decode.work import Work
from baton.openai import Choice, ServedModel, Timeline, Usage, ending, timeline_event, usage_event
from baton.protocol.engine import Update

log = logging.getLogger(__name__)


class Facts(TypedDict):
    """As `Timeline` has them."""

    prefill: str
    cached: int
    handed: int


class Generation:
    """All sequences of one HTTP request. Use as `with`: leaving it ends the engine's work."""

    def __init__(
        self,
        work: Work,
        model: ServedModel,
        front: Front,
        meters: Meters,
        clock: Clock,
        began: float,
        trace: str = "",
        deadline: float | None = None,
    ) -> None:
        """`began`: when the request came, by the clock; `trace`: its `traceparent`; `deadline`: when it must
        be done."""
        self._trace = trace
        assert front.facts is not None, "not started"
        self.work = work
        self.ttft: float | None = None
        """Seconds from the request to its first token."""
        self._front = front
        self._meters = meters
        self._now: Callable[[], float] = clock.now
        self._began = began
        self._deadline = deadline
        eos = frozenset(front.facts.eos)
        self.sequences = [
            OpenSequence(
                request, index, prompt, work.shape, model, eos, ended=index in work.ended, had=work.had
            )
            for index, (request, prompt) in enumerate(zip(work.requests, work.prompts, strict=True))
        ]
        self._left = len(self.sequences) - len(work.ended)
        self._news: list[OpenSequence] = []
        self._error: BatonError | None = None
        self._wake = asyncio.Event()

    def __enter__(self) -> Generation:
        try:
            for sequence in self.sequences:
                if sequence.index not in self.work.ended:
                    sink = partial(self._take, sequence)
                    where = (self.work.prefill, self.work.lender)
                    self._front.submit(sequence.request, sink, *where, self._trace, self._deadline)
        except BaseException:
            self._abort()
            raise
        for prompt in self.work.prompts[:: self.work.shape.n]:
            self._meters.prompt.inc(len(prompt.token_ids))
        return self

    def __exit__(self, *exc: object) -> None:
        self._abort()

    @property
    def ended(self) -> bool:
        """Every sequence has, and all of it was taken out."""
        return not self._left and not self._news

    @property
    def usage(self) -> Usage:
        return Usage.total([sequence.usage for sequence in self.sequences], self.work.shape.n)

    def timeline(self, pod: str) -> Timeline:
        """When what happened so far, of every choice, told by the pod of this name."""
        marks = tuple((what, round((at - self._began) * 1e3, 3)) for what, at in self.marks())
        return Timeline(pod=pod, marks=marks, **self.facts())

    def marks(self) -> list[tuple[str, float]]:
        """What happened so far, and when by the monotonic clock, in order."""
        several = len(self.sequences) > 1
        marks = [
            (f"{one.index} {what}" if several else what, at)
            for one in self.sequences
            for what, at in one.course.marks
        ]
        return sorted(marks, key=lambda mark: (mark[1], mark[0]))

    def facts(self) -> Facts:
        """How its prompts came to be computed."""
        return Facts(
            prefill=next((one.course.prefill for one in self.sequences if one.course.prefill), ""),
            cached=self.usage.cached_tokens,
            handed=sum(one.course.handed for one in self.sequences),
        )

    def notes(self) -> dict[str, object]:
        """For the log."""
        usage = self.usage
        counts = {"prompt_tokens": usage.prompt_tokens, "generated_tokens": usage.completion_tokens}
        first = None if self.ttft is None else round(self.ttft, 4)
        return {**counts, "cached_tokens": usage.cached_tokens, "ttft": first}

    def fail(self, error: BatonError) -> None:
        """End it: the reader gets what has come so far, then the error. The first one counts."""
        if self._error is None:
            self._error = error
            self._abort()
            self._wake.set()

    async def news(self) -> list[OpenSequence]:
        """Sequences that something is new of; waits until there are any. Raises what ended them all."""
        while not self._news:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        news, self._news = self._news, []
        for sequence in news:
            sequence.waiting = False
        return news

    async def whole(self) -> list[Choice]:
        """Every choice, when all have ended."""
        while self._left:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        return [sequence.choice() for sequence in self.sequences]

    def _take(self, sequence: OpenSequence, update: Update) -> None:
        """The front's sink: called for every token, so it must be quick and never raise."""
        if self._error is not None or sequence.finish is not None:
            return
        try:
            self._time(sequence, update)
            sequence.take(update)
        except BatonError as error:
            self.fail(error)
            return
        except Exception as error:
            log.exception("an update could not be taken in")
            self.fail(Failed(f"internal error: {type(error).__name__}"))
            return
        if sequence.finish is not None:
            self._left -= 1
            self._front.abort(sequence.request.id)  # after a stop string the engine would go on
        if not sequence.waiting:
            sequence.waiting = True
            self._news.append(sequence)
        if self.work.stream or not self._left:
            self._wake.set()

    def _time(self, sequence: OpenSequence, update: Update) -> None:
        if update.token is None:
            return
        now = self._now()
        if sequence.last:
            self._meters.itl.observe(now - sequence.last)
        elif self.ttft is None:
            self.ttft = now - self._began
            if not self.work.resumes:
                self._meters.ttft.observe(self.ttft)
        sequence.last = now
        self._meters.generated.inc()
        if update.cached and sequence.index % self.work.shape.n == 0:
            self._meters.cached.inc(min(update.cached, len(sequence.request.token_ids)))

    def _abort(self) -> None:
        for sequence in self.sequences:
            self._front.abort(sequence.request.id)

    def __repr__(self) -> str:
        return f"<Generation {self.work.shape.id}: {self._left} of {len(self.sequences)} sequences open>"


async def events(generation: Generation, write: Callable[[bytes], Awaitable[None]], pod: str) -> bytes:
    """Write every event as it comes; the answer is the stream's end, which only success has. `pod` is what
    this one is called."""
    while not generation.ended:
        data = b"".join([sequence.event() for sequence in await generation.news()])
        if data:
            await write(data)
    work, shape = generation.work, generation.work.shape
    return ending(
        usage_event(shape, generation.usage) if shape.include_usage else b"",
        timeline_event(shape, generation.timeline(pod)) if work.timeline else b"",
    )
