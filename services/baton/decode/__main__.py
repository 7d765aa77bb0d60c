"""Where a pod starts: `python -m baton.decode --engine.model DIR --role unified`.

The one place that makes its parts and knows their order:
settings → listen → load → join → ready → serve → drain → leave → stop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from baton.core.clock import SystemClock
from baton.core.errors import Draining, WorkerDied
from baton.core.ids import incarnation_id
from baton.core.lifecycle import first_of, stop_asked
from baton.decode.app import App
from baton.decode.front import ROLES, engine_of
from baton.decode.meters import Meters
from baton.decode.pod import Pod
from baton.decode.receiver import Receiver
from baton.decode.settings import DecodeSettings
from baton.grammar.checker import Checker
from baton.http import HttpServer
from baton.membership import Membership, lease_of
from baton.openai import ServedModel
from baton.service import leave, run_service
from baton.state import Link
from baton.telemetry import Metrics
from baton.trace import tracing_to

log = logging.getLogger("baton.decode")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_service("decode", DecodeSettings, run, arguments)


async def run(settings: DecodeSettings) -> None:
    """One pod's life. Returns after a stop that was asked for; raises what else ended it."""
    stop, hurry = stop_asked()
    incarnation = incarnation_id()
    make_front = partial(ROLES[settings.role], settings, incarnation)
    pod = Pod(make_front, settings.limits.max_requests)
    metrics = Metrics()
    meters = Meters(metrics, pod.front, settings.model_names[0])
    if isinstance(pod.front, Receiver):
        pod.front.measure(metrics)
    async with AsyncExitStack() as stack:
        tracing = stack.enter_context(tracing_to(settings.trace, f"baton-{settings.role}", settings.pod.name))
        checker = await stack.enter_async_context(Checker(_tokenizer(settings)))
        app = App(pod, metrics, meters, settings, SystemClock(), checker, tracing)
        http = await stack.enter_async_context(HttpServer(app.main(), settings.http))
        if port := settings.http.metrics_port:
            await stack.enter_async_context(HttpServer(app.operations(), settings.http, port))
        log.info("listening", extra={"port": http.port, "role": settings.role})
        # Left in reverse order: what the front has open ends before the sockets that tell of it close.
        stack.push_async_callback(pod.front.close)

        await first_of(_load(settings, pod), stop.wait())
        if stop.is_set():
            return
        await _join(settings, pod, incarnation, http.port, metrics, stack)
        log.info("ready", extra=pod.about())

        await first_of(stop.wait(), pod.front.failed.wait(), http.ended.wait())
        if stop.is_set():
            pod.begin_drain()
            log.info("draining", extra={"requests": pod.requests})
            await first_of(pod.drain(settings.limits.drain_s), hurry.wait())
            pod.end_all(Draining("the worker had to stop before this request was done"))
        if pod.front.failure is not None:
            raise pod.front.failure
        if http.ended.is_set():
            raise WorkerDied("the HTTP server ended by itself")
    log.info("stopped")


async def _join(
    settings: DecodeSettings, pod: Pod, incarnation: str, port: int, metrics: Metrics, stack: AsyncExitStack
) -> None:
    """Become a member of the cluster, and look for the others; left again with the stack."""
    facts = pod.front.facts
    assert facts is not None  # it has started
    lease = lease_of(
        facts, settings.pod, incarnation=incarnation, role=settings.role, model=settings.model_names[0],
        port=port,
    )  # fmt: skip
    link = None
    if settings.state.url:
        link = await stack.enter_async_context(Link(settings.state, name=f"baton-{lease.id}"))
    member = Membership(engine_of(pod.front), lease, link)
    member.measure(metrics)
    if isinstance(pod.front, Receiver):
        pod.front.measured(member)
        if link is not None:
            await stack.enter_async_context(pod.front.discovery(member))
    pod.member = await stack.enter_async_context(member)


async def _load(settings: DecodeSettings, pod: Pod) -> None:
    """Tokenizer and engine, side by side; the pod is ready after."""
    model, _ = await asyncio.gather(asyncio.to_thread(_served, settings), pod.front.start())
    facts = pod.front.facts
    assert facts is not None  # it has started
    pod.served = replace(model, max_length=facts.max_model_len, vocabulary=facts.vocab)


def _tokenizer(settings: DecodeSettings) -> str:
    return settings.engine.tokenizer or settings.engine.model


def _served(settings: DecodeSettings) -> ServedModel:
    """Without its lengths, which the engine finds out."""
    return ServedModel.load(
        _tokenizer(settings),
        names=settings.model_names,
        max_length=0,
        vocabulary=0,
        created=int(time.time()),
        use_generation_config=settings.generation_defaults,
    )


if __name__ == "__main__":
    leave(main())
