"""The seam between a pod's HTTP face and what generates tokens behind it.

Everything above knows a `Front` alone. `baton.engine.worker.Worker` is one: an engine that computes
prompts itself. A role that has prompts computed elsewhere brings another and its line in ROLES.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from baton.core.errors import BatonError
from baton.core.types import Request
from baton.decode.receiver import Receiver
from baton.decode.settings import DecodeSettings
from baton.engine.spec import RankLogs
from baton.engine.worker import Progress, Sink, Worker
from baton.protocol.engine import EngineFacts, Load


class Front(Protocol):
    """Takes requests and hands out their tokens. One event loop owns it."""

    @property
    def facts(self) -> EngineFacts | None:
        """None until `start` returned."""
        ...

    @property
    def load(self) -> Load | None:
        """As of the last news."""
        ...

    @property
    def failed(self) -> asyncio.Event:
        """Set when it can serve no more, with `failure` saying why; every open request was told."""
        ...

    @property
    def failure(self) -> BatonError | None: ...

    @property
    def open(self) -> int:
        """Requests that have not finished."""
        ...

    async def start(self) -> None:
        """Returns when it can take requests; raises what kept it from that."""
        ...

    async def close(self) -> None:
        """Ends what is open with an error, and everything it started. Idempotent."""
        ...

    def submit(
        self,
        request: Request,
        sink: Sink,
        prefer: Sequence[str] | None = None,
        lender: str = "",
        trace: str = "",
        deadline: float | None = None,
    ) -> None:
        """`sink` gets the request's updates on the event loop, the last with `finish` set. `prefer`: ids of
        the prefill pods to ask, best first; empty to compute the prompt here; None for whoever is there.
        `lender`: a pod that holds more of the prompt's prefix, if any does. `trace`: the `traceparent` of
        whoever is asked to work for it. `deadline`: when the answer is of no use any more, by the monotonic
        clock; what cannot be met is refused early."""
        ...

    def abort(self, id: str) -> None:
        """Stop work on a request: no update follows. Ids that are not open are ignored."""
        ...


def _unified(settings: DecodeSettings, incarnation: str, progress: Progress) -> Front:
    return Worker(settings.engine, progress, RankLogs("decode", settings.logs))


def _decode(settings: DecodeSettings, incarnation: str, progress: Progress) -> Front:
    return Receiver(settings, incarnation, progress)


ROLES: Mapping[str, Callable[[DecodeSettings, str, Progress], Front]] = {
    "unified": _unified,
    "decode": _decode,
}
"""Each is told what this run of the worker is called."""


def engine_of(front: Front) -> Worker:
    """The worker behind a front."""
    if isinstance(front, Receiver):
        return front.worker
    assert isinstance(front, Worker)
    return front
