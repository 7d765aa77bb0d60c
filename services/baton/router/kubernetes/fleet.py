"""The fleet as the API server lists it, with facts from the pods themselves and load from Redis.

The API says who exists and who is leaving; `GET /lease` of each pod says what it is; its beat in Redis, being
younger, says how busy it is. Without Redis each pod is asked again every second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import msgspec

from baton.core.clock import Clock
from baton.core.errors import BatonError, PeerLost
from baton.router.kubernetes.api import Api
from baton.router.kubernetes.objects import PodSeen
from baton.router.kubernetes.watch import PodWatch, WatchHealth
from baton.router.wire import Pool, fetch, origin_of
from baton.state import Fleet, WorkerLease

log = logging.getLogger(__name__)

POLL_S = 1.0
ASK_S = 2.0
SILENT_S = 5.0
"""A pod that is listed and whose lease nobody could read for so long is out of the fleet until one can."""

_read = msgspec.json.Decoder(WorkerLease).decode


class _Made(NamedTuple):
    """A lease, and what it was made of."""

    told: WorkerLease
    shown: WorkerLease | None
    away: bool
    lease: WorkerLease


class KubernetesFleet:
    """`async with`, for as long as the router runs; then `fleet` and `wait`, as of a lease board."""

    def __init__(
        self, api: Api, port_name: str, pool: Pool, leases: Callable[[], Fleet], clock: Clock
    ) -> None:
        """`leases`: the fleet as Redis tells it; empty where there is none."""
        self.watch = PodWatch(api, port_name, clock, self._moved)
        self._api = api
        self._pool = pool
        self._leases = leases
        self._clock = clock
        self._fleet = Fleet()
        self._polled = False
        self._merged = -1
        """Version of the leases that are in it."""
        self._told: dict[str, tuple[WorkerLease, float]] = {}
        """Pod's name → its lease as the pod told it, and when it or Redis told of that run last."""
        self._made: dict[str, _Made] = {}
        """Pod's name → the lease that is in the fleet: the same one while nobody has told another."""
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"KubernetesFleet({self._fleet!r}, {self.watch!r})"

    @property
    def fleet(self) -> Fleet:
        if self._leases().version != self._merged:
            self._publish()
        return self._fleet

    @property
    def looked(self) -> bool:
        """Every pod that is listed was asked once."""
        return self._polled

    @property
    def health(self) -> WatchHealth:
        return self.watch.health

    async def wait(self, version: int) -> Fleet:
        while self._fleet.version <= version:
            await self._changed.wait()
        return self._fleet

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self.watch.run()), asyncio.create_task(self._poll())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._api.close()

    # ---- asking pods ----

    def _moved(self) -> None:
        """The list of pods is new. Who leaves must be out at once; who came is asked."""
        self._publish()
        self._woken.set()

    async def _poll(self) -> None:
        while True:
            self._woken.clear()
            due = [pod for pod in self.watch.pods.values() if pod.address and self._due(pod)]
            await asyncio.gather(*(self._ask(pod) for pod in due))
            self._publish()
            self._polled = self.watch.health.synced
            try:
                async with asyncio.timeout(POLL_S / 4 if self._unknown() else POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                pass

    def _unknown(self) -> bool:
        return any(pod.name not in self._told for pod in self.watch.pods.values() if not pod.leaving)

    def _due(self, pod: PodSeen) -> bool:
        """Not while Redis tells of the very run of it that we know."""
        told = self._told.get(pod.name)
        if told is None or told[0].http != pod.address:
            return True
        lease = self._leases().workers.get(told[0].id)
        return lease is None or lease.incarnation != told[0].incarnation

    async def _ask(self, pod: PodSeen) -> None:
        try:
            head, body = await fetch(self._pool, origin_of(pod.address), "/lease", seconds=ASK_S)
            if head.status != 200:
                raise PeerLost(f"/lease answers {head.status}")
            lease = _read(body)
        except (BatonError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.debug("a pod does not tell its lease", extra={"worker": pod.name, "cause": str(error)})
            return
        # Its own idea of its address may be of another network.
        lease = msgspec.structs.replace(lease, http=pod.address)
        self._told[pod.name] = (lease, self._clock.now())

    # ---- putting together ----

    def _publish(self) -> None:
        now, pods = self._clock.now(), self.watch.pods
        self._merged = self._leases().version
        for name in [name for name in self._told if name not in pods]:
            del self._told[name]
            self._made.pop(name, None)
        workers: dict[str, WorkerLease] = {}
        expired = set()
        for name, (told, at) in self._told.items():
            shown = self._leases().workers.get(told.id)
            live = shown is not None and shown.incarnation == told.incarnation
            if live:
                self._told[name] = (told, now)  # so that it is asked itself before it is given up
            elif now - at > SILENT_S:
                expired.add(told.id)
                continue
            workers[told.id] = self._lease(pods[name], told, shown if live else None)
        before = self._fleet
        if workers != dict(before.workers) or expired != before.expired:
            self._fleet = Fleet(MappingProxyType(workers), before.version + 1, frozenset(expired))
            self._changed.set()
            self._changed = asyncio.Event()

    def _lease(self, pod: PodSeen, told: WorkerLease, shown: WorkerLease | None) -> WorkerLease:
        away = pod.leaving or not pod.ready
        made = self._made.get(pod.name)
        if made is None or made.told is not told or made.shown is not shown or made.away != away:
            best = told if shown is None else msgspec.structs.replace(shown, http=told.http)
            if away:
                best = msgspec.structs.replace(best, draining=True)
            made = self._made[pod.name] = _Made(told, shown, away, best)
        return made.lease
