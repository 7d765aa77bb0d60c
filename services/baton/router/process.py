"""One router process: makes its parts, serves, drains, stops."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from baton.core.clock import SystemClock
from baton.core.errors import InvalidSetting, WorkerDied
from baton.core.ids import incarnation_id
from baton.core.lifecycle import first_of, stop_asked
from baton.grammar.checker import Checker
from baton.http import HttpServer
from baton.openai import ServedModel
from baton.router.app import App
from baton.router.entry import Admission, Gate, KeyLimits, KeyRing
from baton.router.exposed import Exposed
from baton.router.gauges import Gauges
from baton.router.kubernetes import Api, KubernetesFleet
from baton.router.meters import Meters
from baton.router.own import NEWS, Own
from baton.router.page import Feed, Page, Sight, sources_of
from baton.router.pods import Catalog, Pods
from baton.router.probes import Probes
from baton.router.relay import Means, RetryBudget, Trail
from baton.router.settings import RouterSettings
from baton.router.siblings import Siblings
from baton.router.understand import Understanding
from baton.router.wire import Pool
from baton.state import FleetMirror, IndexFeed, LeaseBoard, Link
from baton.state.address import nowhere
from baton.telemetry import Metrics
from baton.trace import Tracing, tracing_to

log = logging.getLogger("baton.router")

FIRST_LOOK_S = 2.0
"""How long the start waits for a first look at the fleet: longer, and it starts without."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several processes was given by the one that started them all."""

    main: socket.socket | None = None
    metrics: socket.socket | None = None
    page: socket.socket | None = None
    own: socket.socket | None = None
    """On the loopback: where its siblings ask for its own part."""
    siblings: tuple[int, ...] = ()
    """The ports of all of them, its own included, by number."""
    word: str = ""
    """What they know each other by."""
    feed: int = 0
    """The port of the feed that reads prefix events for all of them; without one it reads them itself."""


async def run(settings: RouterSettings, share: Share = Share()) -> None:
    """A router's life. Returns after a stop that was asked for; raises what else ended it."""
    stop, hurry = stop_asked()
    async with AsyncExitStack() as stack:
        name = f"{os.uname().nodename}-{incarnation_id()}"
        tracing = stack.enter_context(tracing_to(settings.trace, "baton-router", name))
        base = await asyncio.to_thread(_served, settings)
        app = await _build(settings, base, stack, share, name, tracing)
        http = await stack.enter_async_context(HttpServer(app.main(), settings.http, listening=share.main))
        if port := settings.http.metrics_port:
            second = HttpServer(app.operations(), settings.http, port, share.metrics)
            await stack.enter_async_context(second)
        if app.page is not None and (port := settings.ui.port):
            await stack.enter_async_context(HttpServer(app.beside(), settings.http, port, share.page))
        if share.own is not None:
            await stack.enter_async_context(HttpServer(app.beneath(), settings.http, listening=share.own))
        log.info("listening", extra={"port": http.port})
        await first_of(stop.wait(), http.ended.wait())
        if http.ended.is_set() and not stop.is_set():
            raise WorkerDied("the HTTP server ended by itself")
        log.info("draining", extra={"requests": app.gate.inside})
        http.let_go()
        if app.page is not None:
            app.page.close()
        await first_of(app.gate.drain(settings.limits.drain_s), hurry.wait())
        app.gate.end_all()
    log.info("stopped")


async def _build(
    settings: RouterSettings,
    base: ServedModel,
    stack: AsyncExitStack,
    share: Share,
    name: str,
    tracing: Tracing,
) -> App:
    """`name` is this run's, among all routers."""
    clock, metrics, trail = SystemClock(), Metrics(), Trail()
    meters = Meters(metrics, settings.placement.policy)
    keys = KeyRing(settings.keys.file, clock)
    mirror = await _mirror(settings, stack, name, share.feed)
    pool = Pool()
    stack.callback(pool.close)
    catalog = Catalog(base, settings.model.names)
    discovery: LeaseBoard | KubernetesFleet = mirror.board
    if settings.discovery.source == "kubernetes":
        its = settings.discovery
        api = Api(its.selector, namespace=its.namespace, url=its.api)
        discovery = KubernetesFleet(api, its.port_name, pool, lambda: mirror.fleet, clock)
        await stack.enter_async_context(discovery)
    # Not before listening: a process that shares its port is sent requests from that moment.
    await first_of(_looked(discovery), clock.sleep(FIRST_LOOK_S))
    pods = Pods(discovery, mirror.index, mirror.loads, catalog, pool, settings.placement, clock)
    admission = Admission(settings.admission, clock, meters)
    gate = Gate(keys, KeyLimits(clock), admission)
    means = Means(
        pods,
        pool,
        RetryBudget(settings.retry.share, settings.retry.burst),
        meters,
        trail,
        settings.retry,
        clock,
    )

    def detail() -> Mapping[str, object]:
        link = mirror.health.link
        told: dict[str, object] = {}
        if settings.state.url:
            silent_s = round(link.silent_s, 1)
            told["state"] = {"reachable": link.reachable, "silent_s": silent_s, "error": link.error}
        if isinstance(discovery, KubernetesFleet):
            told["kubernetes"] = asdict(discovery.health)
        return told

    gauges = Gauges(metrics, pods, admission, mirror, shared=bool(settings.state.url))
    number = share.siblings.index(share.own.getsockname()[1]) if share.own is not None else 0
    siblings = Siblings(pool, share.siblings, number, share.word)
    exposed = Exposed(metrics, gauges, siblings)
    own = Own(exposed, admission, pods, trail, siblings, clock)
    probes = Probes(gate, pods, exposed, own, detail)
    for work in (keys.follow(), pods.follow(), pods.shunning.run()):
        _background(stack, work)
    checker = await stack.enter_async_context(Checker(settings.model.tokenizer))
    understanding = Understanding(pods, settings.keys.shared_cache, checker)
    page = _page(settings, stack, probes, own, meters) if settings.ui.enabled else None
    return App(settings, gate, understanding, admission, means, probes, meters, clock, own, page, tracing)


async def _mirror(settings: RouterSettings, stack: AsyncExitStack, name: str, feed: int) -> FleetMirror:
    """What Redis tells. Without one it stays empty: the API server lists the pods, they tell of themselves,
    and requests are placed by load alone, of which each router knows its own."""
    if not settings.state.url and settings.discovery.source == "leases":
        known = "set it to the Redis in which pods keep their leases, or discovery.source to kubernetes"
        raise InvalidSetting("state.url", f"is empty: {known}")
    link = Link(settings.state, name="router", connected=None if settings.state.url else nowhere())
    mirror = FleetMirror(link, name, feed)
    if settings.state.url:
        await stack.enter_async_context(link)
        await stack.enter_async_context(mirror)
    return mirror


def _page(settings: RouterSettings, stack: AsyncExitStack, probes: Probes, own: Own, meters: Meters) -> Page:
    """It follows this process and its siblings."""

    def problem() -> str:
        why = probes.unready()
        return why[1] if why else ""

    clock, siblings = own.clock, own.siblings
    seen, sources = sources_of(
        pods=own.pods, trail=own.trail, meters=meters, state=own.state, pool=siblings.pool,
        policy=settings.placement.policy, problem=problem, clock=clock,
    )  # fmt: skip
    sight = Sight(seen, clock)
    processes = {siblings.number: sight.follow}
    processes |= {number: partial(siblings.follow, number, NEWS) for number in siblings.others}
    feed = Feed(sources, processes, siblings.number, clock)
    for work in (sight.run(), feed.run()):
        _background(stack, work)
    return Page(feed, sight, probes.gate.check_operator)


async def feed(settings: RouterSettings, listening: socket.socket) -> None:
    """The life of the process that reads prefix events for all that share a port."""
    stop, _ = stop_asked()
    async with AsyncExitStack() as stack:
        if settings.state.url:
            link = await stack.enter_async_context(Link(settings.state, name="router-feed"))
            await stack.enter_async_context(IndexFeed(link, listening))
        await stop.wait()


async def _looked(discovery: LeaseBoard | KubernetesFleet) -> None:
    """Until it is known who there is, be it nobody."""
    while not discovery.looked:
        await asyncio.sleep(0.01)


def _background(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", exc_info=error)

    task.add_done_callback(ended)
    stack.callback(task.cancel)


def _served(settings: RouterSettings) -> ServedModel:
    """Tokenizer and templates; the pods say the rest."""
    return ServedModel.load(
        settings.model.tokenizer,
        names=settings.model.names or ("unknown",),
        max_length=0,
        vocabulary=0,
        created=int(time.time()),
        use_generation_config=settings.model.generation_defaults,
    )
