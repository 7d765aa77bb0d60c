"""Models from Python: `LLM` for lists of prompts, `AsyncLLM` for streams.

Both run the same worker that a pod runs: engine processes, and this process as their front. `LLM` is
`AsyncLLM` on an event loop in a thread of its own, so it works in scripts, notebooks and servers.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

from baton.core.errors import BatonError, InvalidField, UnsupportedModel, WorkerDied
from baton.core.types import Finish, Request, SamplingParams, TokenLogprob
from baton.engine.config import EngineConfig
from baton.engine.transcript import Delta, Transcript
from baton.engine.worker import STOP_SECONDS, Progress, Worker
from baton.protocol.engine import EngineFacts, Update
from baton.tokens.identity import page_identities, root_salt
from baton.tokens.tokenizer import Tokenizer

Prompt = str | Sequence[int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One finished sequence."""

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    stopped_by: str | int | None
    """The stop string or token that ended it."""
    logprobs: tuple[TokenLogprob, ...] | None
    prompt_logprobs: tuple[TokenLogprob, ...] | None
    cached_tokens: int
    """Prompt tokens that were found in the prefix cache."""
    index: int = 0
    """Which of the `n` sequences of its prompt."""


class AsyncLLM:
    """A model served by processes of its own. Use as `async with AsyncLLM(model=...) as llm`."""

    def __init__(self, model: str, *, progress: Progress | None = None, **settings: Any) -> None:
        self.config = EngineConfig(model=model, **settings)
        self.worker = Worker(self.config, progress)
        self.tokenizer: Tokenizer | None = None
        self._ids = count()

    async def __aenter__(self) -> AsyncLLM:
        await self.worker.__aenter__()
        try:
            self.tokenizer = await asyncio.to_thread(_tokenizer, self.config.tokenizer or self.config.model)
        except BaseException:  # there will be no `__aexit__`
            await self.worker.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.worker.__aexit__(*exc)

    @property
    def facts(self) -> EngineFacts:
        assert self.worker.facts is not None, "the engine has not started"
        return self.worker.facts

    async def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Output]:
        """Every prompt's outputs, in order; `n` of them for each prompt."""
        listed: list[Prompt] = [prompts] if _single(prompts) else list(prompts)  # type: ignore[list-item, arg-type]
        params = (
            [sampling or SamplingParams()] * len(listed)
            if not isinstance(sampling, Sequence)
            else list(sampling)
        )
        if len(params) != len(listed):
            raise InvalidField("sampling_params", f"has {len(params)} entries for {len(listed)} prompts")
        made = [self._requests(p, s, i) for i, (p, s) in enumerate(zip(listed, params, strict=True))]
        collectors = [
            _Collector(request, index, self) for requests in made for index, request in enumerate(requests)
        ]
        room = asyncio.Semaphore(self.config.max_queued)
        tasks = [asyncio.ensure_future(self._collect(collector, room)) for collector in collectors]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _collect(self, collector: _Collector, room: asyncio.Semaphore) -> Output:
        """One sequence's output; asked for once the engine's queue has `room`, however long the list is."""
        async with room:
            try:
                self.worker.submit(collector.request, collector.take)
                return await collector.done
            finally:
                self.worker.abort(collector.request.id)

    async def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> AsyncIterator[Delta]:
        """One prompt's tokens as they come; leaving the loop early stops the work."""
        params = sampling or SamplingParams()
        if params.n != 1:
            raise InvalidField("n", "must be 1 in a stream; start one stream for each sequence")
        (request,) = self._requests(prompt, params, 0)
        transcript = self.transcript(request)
        news: asyncio.Queue[Update] = asyncio.Queue()
        self.worker.submit(request, news.put_nowait)
        try:
            while transcript.finish is None:
                yield transcript.take(await news.get())
        finally:
            self.worker.abort(request.id)

    def transcript(self, request: Request) -> Transcript:
        eos = frozenset(() if request.sampling.ignore_eos else self.facts.eos)
        return Transcript(request.sampling, self.tokenizer, eos, request.token_ids)

    def _requests(self, prompt: Prompt, sampling: SamplingParams, index: int) -> list[Request]:
        """One request for each of the `n` sequences of a prompt."""
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise InvalidField(
                    f"prompts[{index}]", "is text, but the model has no tokenizer; pass token ids"
                )
            ids = tuple(self.tokenizer.encode(prompt))
        else:
            ids = tuple(prompt)
        salt = root_salt(self.facts.fingerprint.hex())
        identities = page_identities(ids, self.facts.page_size, salt)
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        return [
            Request(
                id=f"llm-{next(self._ids)}", token_ids=ids, identities=identities, salt=salt,
                sampling=replace(sampling, n=1, seed=(seed + i) % 2**63),
            )
            for i in range(sampling.n)
        ]  # fmt: skip


class _Collector:
    """Gathers one sequence's updates into an Output."""

    def __init__(self, request: Request, index: int, llm: AsyncLLM) -> None:
        self.request = request
        self.index = index
        self.done: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        self._worker = llm.worker
        self._transcript = llm.transcript(request)
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._scores: tuple[TokenLogprob, ...] | None = None
        self._cached = 0

    def take(self, update: Update) -> None:
        if self.done.done():
            return
        try:
            delta = self._transcript.take(update)
        except BatonError as error:
            self.done.set_exception(error)
            return
        self._text.append(delta.text)
        self._tokens += delta.token_ids
        if delta.logprob is not None:
            self._logprobs.append(delta.logprob)
        if delta.prompt_logprobs is not None:
            self._scores = delta.prompt_logprobs
        self._cached = delta.cached if delta.cached is not None else self._cached
        if delta.finish is not None:
            self.done.set_result(self._output(delta.finish, delta.stopped_by))
            self._worker.abort(self.request.id)

    def _output(self, finish: Finish, stopped_by: str | int | None) -> Output:
        return Output(
            prompt_token_ids=self.request.token_ids, token_ids=tuple(self._tokens), text="".join(self._text),
            finish_reason=finish.value, stopped_by=stopped_by, cached_tokens=self._cached, index=self.index,
            logprobs=tuple(self._logprobs) if self.request.sampling.logprobs is not None else None,
            prompt_logprobs=self._scores,
        )  # fmt: skip


class LLM:
    """A model for lists of prompts. Starts its processes at once; `close()` or `with` ends them."""

    def __init__(self, model: str, *, policy: str = "lof", **settings: Any) -> None:
        """`settings` are `EngineConfig`'s. A list is done when its longest answer is, so that one is begun
        first; equals, and prompts without a `max_tokens`, go in order."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="baton", daemon=True)
        self._thread.start()
        try:
            self._llm = self._run(_make(lambda: AsyncLLM(model, policy=policy, **settings)))
            self._run(self._llm.__aenter__())
        except BaseException:
            self._stop()
            raise

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Output]:
        return self._run(self._llm.generate(prompts, sampling_params))

    @property
    def facts(self) -> EngineFacts:
        return self._llm.facts

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._llm.tokenizer

    def close(self) -> None:
        if self._loop.is_running():
            self._run(self._llm.__aexit__())
            self._stop()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._loop.is_running():
            work.close()
            raise WorkerDied("this LLM was closed")
        found = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return found.result()
        except BaseException:
            found.cancel()  # interrupted here, it goes on there
            raise

    def _stop(self) -> None:
        asyncio.run_coroutine_threadsafe(_others_end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _others_end() -> None:
    """What was interrupted lets go of its processes before the loop stops."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=2 * STOP_SECONDS)


async def _make(make: Callable[[], T]) -> T:
    """Build an object on the loop's own thread."""
    return make()


def _single(prompts: Prompt | Sequence[Prompt]) -> bool:
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))


def _tokenizer(source: str) -> Tokenizer | None:
    """The model's tokenizer; None when its files have none (random weights for a benchmark)."""
    try:
        return Tokenizer.load(source)
    except UnsupportedModel:
        return None
