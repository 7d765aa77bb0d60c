"""Where a prefill pod starts: `python -m baton.prefill --engine.model DIR --listen tcp://0.0.0.0:5600`.

settings → listen → load → ready → serve → drain → stop. Exit status: 0 after a stop that was asked for,
2 for a mistake in what was set, 1 when the pod could not go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import uvloop
import zmq

from baton.core.errors import BatonError, InvalidSetting, Misconfigured, WorkerDied
from baton.core.ids import incarnation_id
from baton.core.lifecycle import first_of, stop_asked
from baton.core.settings import from_command_line
from baton.engine.worker import Worker
from baton.http import HttpServer
from baton.prefill.app import App
from baton.prefill.legs import LegDesk
from baton.prefill.settings import PrefillSettings
from baton.protocol import pods
from baton.telemetry import Metrics, logging_to

log = logging.getLogger("baton.prefill")

PROGRAM = "python -m baton.prefill"


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    try:
        settings = from_command_line(PrefillSettings, PROGRAM, words, os.environ).settings
    except Misconfigured as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 2
    with logging_to(settings=settings.logs, service="prefill"):
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


async def run(settings: PrefillSettings) -> None:
    """One pod's life. Returns after a stop that was asked for; raises what else ended it."""
    stop, hurry = stop_asked()
    app: App

    def progress(stage: str, done: float) -> None:
        app.stage = f"{stage}, {done:.0%} done"

    worker = Worker(replace(settings.engine, handover=True), progress)
    app = App(worker, Metrics())
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(HttpServer(app.starlette(), settings.http))
        stack.push_async_callback(worker.close)
        await first_of(worker.start(), stop.wait())
        if stop.is_set():
            return
        app.desk = await stack.enter_async_context(_desk(settings, worker))
        log.info("ready", extra={"listen": app.desk.address, "port": http.port})

        await first_of(stop.wait(), worker.failed.wait(), http.ended.wait())
        if stop.is_set():
            log.info("draining", extra={"legs": app.desk.open})
            await first_of(_drain(app.desk, settings.drain_s), hurry.wait())
        if worker.failure is not None:
            raise worker.failure
        if http.ended.is_set():
            raise WorkerDied("the HTTP server ended by itself")
    log.info("stopped")


def _desk(settings: PrefillSettings, worker: Worker) -> LegDesk:
    facts = worker.facts
    assert facts is not None  # it has started
    hello = pods.Hello(
        pods.VERSION, incarnation_id(), "prefill", facts.fingerprint, facts.page_size, facts.ranks
    )
    try:
        return LegDesk(worker, hello, settings.listen, settings.secret)
    except zmq.ZMQError as error:
        raise InvalidSetting("listen", f"cannot listen on {settings.listen}: {error}") from error


async def _drain(desk: LegDesk, seconds: float) -> None:
    """Take no new legs and let those that are open end, their pushes included."""
    desk.draining = True
    deadline = asyncio.get_running_loop().time() + seconds
    while desk.open and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
