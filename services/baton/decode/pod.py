"""What this pod is to its clients: starting, ready, draining or failed, and who is being served.

The one place that says whether a request is let in. `__main__` moves it from state to state; endpoints
enter through `admit` and register what they generate, so that it can be ended when time is up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from baton.core.errors import BatonError, Draining, QueueFull, Starting
from baton.decode.front import Front
from baton.engine.worker import Progress
from baton.membership import Membership
from baton.openai import ServedModel
from baton.state import WorkerLease

log = logging.getLogger("baton.decode")


class Open(Protocol):
    """Something that is being generated for a client."""

    def fail(self, error: BatonError) -> None:
        """End it with this error; its client is told."""
        ...


class Pod:
    def __init__(self, make_front: Callable[[Progress], Front], max_requests: int) -> None:
        """`make_front` is given what to call while it starts."""
        self.front = make_front(self._progress)
        self.served: ServedModel | None = None
        """None until ready."""
        self.member: Membership | None = None
        """None until ready."""
        self.stage = "starting"
        """Where the start has got to, in words."""
        self.draining = False
        self.generating: set[Open] = set()
        self._max_requests = max_requests
        self._told = -1
        self._requests = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def _progress(self, stage: str, done: float) -> None:
        self.stage = f"{stage}, {done:.0%} done"
        if int(done * 10) != self._told:
            self._told = int(done * 10)
            log.info("starting", extra={"stage": stage, "done": round(done, 2)})

    @property
    def requests(self) -> int:
        """HTTP requests that are being served."""
        return self._requests

    @property
    def model(self) -> ServedModel:
        if self.served is None:
            raise Starting(f"the worker is not ready: {self.stage}")
        return self.served

    @property
    def lease(self) -> WorkerLease | None:
        """What the cluster is told of it; None until ready."""
        return self.member.lease if self.member is not None else None

    def begin_drain(self) -> None:
        """Take no new work from now on, and let the cluster know."""
        self.draining = True
        if self.member is not None:
            self.member.drain()

    def about(self) -> dict[str, object]:
        """What its engine turned out to be, for the log."""
        facts = self.front.facts
        if facts is None or self.served is None:
            return {}
        told = {"model": self.served.names[0], "max_model_len": facts.max_model_len, "pages": facts.pages}
        if facts.kv_dtype:
            told["kv_dtype"] = facts.kv_dtype
        if facts.all_reduce:
            told["all_reduce"] = facts.all_reduce
        return {**told, "device": facts.device, "dtype": facts.dtype, "seconds": round(facts.seconds, 1)}

    def refusal(self) -> BatonError | None:
        """Why this pod takes no new work; None when it does."""
        if self.front.failure is not None:
            return self.front.failure
        if self.draining:
            return Draining("this worker is leaving; others take new requests")
        if self.served is None:
            return Starting(f"the worker is not ready: {self.stage}")
        return None

    @contextmanager
    def admit(self) -> Iterator[ServedModel]:
        """Let one HTTP request in for as long as it is served, or raise why not."""
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        if self._requests >= self._max_requests:
            raise QueueFull(f"{self._requests} requests are being served, the most there may be")
        self._requests += 1
        self._empty.clear()
        try:
            yield self.model
        finally:
            self._requests -= 1
            if not self._requests:
                self._empty.set()

    async def drain(self, seconds: float) -> bool:
        """Take no new work and wait for what is open. False when the time was not enough."""
        self.begin_drain()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def end_all(self, error: BatonError) -> None:
        """End whatever is still generated."""
        for open in tuple(self.generating):
            open.fail(error)

    def __repr__(self) -> str:
        refusal = self.refusal()
        return f"<Pod {refusal.code if refusal else 'ready'}: {self._requests} requests, {self.front!r}>"
