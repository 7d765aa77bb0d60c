"""Where a pod starts: `python -m baton.decode --engine.model DIR --role unified`.

The one place that makes its parts and knows their order:
settings → listen → load → ready → serve → drain → stop. Exit status: 0 after a stop that was asked for,
2 for a mistake in what was set, 1 when the pod could not go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import uvloop

from baton.core.clock import SystemClock
from baton.core.errors import BatonError, Draining, Misconfigured, WorkerDied
from baton.core.lifecycle import first_of, stop_asked
from baton.core.settings import from_command_line
from baton.decode.app import App
from baton.decode.front import ROLES
from baton.decode.meters import Meters
from baton.decode.pod import Pod
from baton.decode.receiver import Receiver
from baton.decode.settings import DecodeSettings
from baton.http import HttpServer
from baton.openai import ServedModel
from baton.telemetry import Metrics, logging_to

log = logging.getLogger("baton.decode")

PROGRAM = "python -m baton.decode"


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    try:
        settings = from_command_line(DecodeSettings, PROGRAM, words, os.environ).settings
    except Misconfigured as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 2
    with logging_to(settings=settings.logs, service="decode"):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(run(settings))
        except Misconfigured as error:
            log.error("cannot start: %s", error)
            return 2
        except BatonError as error:
            log.error("stopped: %s", error)
            return 1
    return 0


async def run(settings: DecodeSettings) -> None:
    """One pod's life. Returns after a stop that was asked for; raises what else ended it."""
    stop, hurry = stop_asked()
    pod = Pod(partial(ROLES[settings.role], settings), settings.limits.max_requests)
    metrics = Metrics()
    meters = Meters(metrics, pod.front, settings.model_names[0])
    if isinstance(pod.front, Receiver):
        pod.front.measure(metrics)
    app = App(pod, metrics, meters, settings, SystemClock())
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(HttpServer(app.main(), settings.http))
        if port := settings.http.metrics_port:
            await stack.enter_async_context(HttpServer(app.operations(), settings.http, port))
        log.info("listening", extra={"port": http.port, "role": settings.role})
        # Left in reverse order: what the front has open ends before the sockets that tell of it close.
        stack.push_async_callback(pod.front.close)

        await first_of(_load(settings, pod), stop.wait())
        if stop.is_set():
            return
        log.info("ready", extra=pod.about())

        await first_of(stop.wait(), pod.front.failed.wait(), http.ended.wait())
        if stop.is_set():
            log.info("draining", extra={"requests": pod.requests})
            await first_of(pod.drain(settings.limits.drain_s), hurry.wait())
            pod.end_all(Draining("the worker had to stop before this request was done"))
        if pod.front.failure is not None:
            raise pod.front.failure
        if http.ended.is_set():
            raise WorkerDied("the HTTP server ended by itself")
    log.info("stopped")


async def _load(settings: DecodeSettings, pod: Pod) -> None:
    """Tokenizer and engine, side by side; the pod is ready after."""
    model, _ = await asyncio.gather(asyncio.to_thread(_served, settings), pod.front.start())
    facts = pod.front.facts
    assert facts is not None  # it has started
    pod.served = replace(model, max_length=facts.max_model_len, vocabulary=facts.vocab)


def _served(settings: DecodeSettings) -> ServedModel:
    """Without its lengths, which the engine finds out."""
    return ServedModel.load(
        settings.tokenizer or settings.engine.model,
        names=settings.model_names,
        max_length=0,
        vocabulary=0,
        created=int(time.time()),
        use_generation_config=settings.generation_defaults,
    )


if __name__ == "__main__":
    sys.exit(main())
