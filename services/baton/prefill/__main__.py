"""Where a prefill pod starts: `python -m baton.prefill --engine.model DIR --listen tcp://0.0.0.0:5600`.

settings → listen → load → join → ready → serve → drain → leave → stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import zmq

from baton.core.errors import InvalidSetting, WorkerDied
from baton.core.ids import incarnation_id
from baton.core.lifecycle import first_of, stop_asked
from baton.engine.spec import RankLogs
from baton.engine.worker import Worker
from baton.http import HttpServer
from baton.membership import Membership, introduction, lease_of
from baton.prefill.app import App
from baton.prefill.legs import LegDesk
from baton.prefill.settings import PrefillSettings
from baton.service import leave, run_service
from baton.state import Link
from baton.telemetry import Metrics
from baton.trace import Tracing, tracing_to

log = logging.getLogger("baton.prefill")

LANDING_S = 1.0
"""How long a decode pod may take to see that the last pages have landed. Who leaves before is taken for
lost, and the prompt is computed again."""
CUT_S = 3.0
"""How long a leg that is cut off may take to end: decode pods can use its pages again once it has."""


def main(arguments: Sequence[str] | None = None) -> int:
    return run_service("prefill", PrefillSettings, run, arguments)


async def run(settings: PrefillSettings) -> None:
    """One pod's life. Returns after a stop that was asked for; raises what else ended it."""
    stop, hurry = stop_asked()
    incarnation = incarnation_id()
    metrics = Metrics()
    app: App

    def progress(stage: str, done: float) -> None:
        app.stage = f"{stage}, {done:.0%} done"

    worker = Worker(replace(settings.engine, handover=True), progress, RankLogs("prefill", settings.logs))
    app = App(worker, metrics)
    async with AsyncExitStack() as stack:
        tracing = stack.enter_context(tracing_to(settings.trace, "baton-prefill", settings.pod.name))
        http = await stack.enter_async_context(HttpServer(app.starlette(), settings.http))
        log.info("listening", extra={"port": http.port})
        stack.push_async_callback(worker.close)
        await first_of(worker.start(), stop.wait())
        if stop.is_set():
            return
        desk = app.desk = await stack.enter_async_context(_desk(settings, worker, incarnation, tracing))
        member = _membership(settings, worker, incarnation, http.port, desk)
        if member.link is not None:
            await stack.enter_async_context(member.link)
        member.measure(metrics)
        app.member = await stack.enter_async_context(member)
        log.info("ready", extra={"listen": desk.address, "port": http.port})

        await first_of(stop.wait(), worker.failed.wait(), http.ended.wait())
        if stop.is_set():
            member.drain()
            desk.drain()
            log.info("draining", extra={"legs": desk.open})
            await first_of(_drained(desk, settings.drain_s), hurry.wait(), worker.failed.wait())
            if desk.open and worker.failure is None:
                log.warning("cutting off legs that are under way", extra={"legs": desk.open})
                desk.end_all()
                await first_of(_drained(desk, CUT_S), worker.failed.wait())
        if worker.failure is not None:
            await worker.close()  # so that decode pods hear of legs which cannot write any more
            raise worker.failure
        if http.ended.is_set():
            raise WorkerDied("the HTTP server ended by itself")
    log.info("stopped")


def _desk(settings: PrefillSettings, worker: Worker, incarnation: str, tracing: Tracing) -> LegDesk:
    hello = introduction(worker, "prefill", incarnation, settings.pod.name)
    try:
        return LegDesk(worker, hello, settings.listen, settings.secret, tracing)
    except zmq.ZMQError as error:
        raise InvalidSetting("listen", f"cannot listen on {settings.listen}: {error}") from error


def _membership(
    settings: PrefillSettings, worker: Worker, incarnation: str, port: int, desk: LegDesk
) -> Membership:
    assert worker.facts is not None  # it has started
    lease = lease_of(
        worker.facts, settings.pod, incarnation=incarnation, role="prefill", model=settings.engine.model,
        port=port, bound=desk.address,
    )  # fmt: skip
    link = Link(settings.state, name=f"baton-{lease.id}") if settings.state.url else None
    member = Membership(worker, lease, link)
    desk.measured = member.measured
    return member


async def _drained(desk: LegDesk, seconds: float) -> None:
    """Until the legs that are open have ended, their pushes included, and nobody reads here any more, or the
    time is up."""
    if not (desk.open or desk.loans):
        return
    deadline = asyncio.get_running_loop().time() + seconds
    while (desk.open or desk.loans) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    if not desk.open:
        await asyncio.sleep(LANDING_S)


if __name__ == "__main__":
    leave(main())
