"""All that placing a request takes, from memory: rosters, loads, health, who holds what.

The composition root makes one; the relay asks it where to go and tells it what happened. It also watches
the fleet: connections to pods that left are closed, and one that fell silent is asked whether it lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from baton.core.clock import Clock
from baton.core.errors import BatonError, InvalidField, Unreached
from baton.router.placement import Decision, PlacementSettings, Query, Refusal, Roster, View, policy
from baton.router.pods.generation import Catalog, Generation, Kind, kind_of
from baton.router.pods.pace import Paces
from baton.router.pods.shunning import Shunning
from baton.router.wire import Origin, Pool, fetch, origin_of
from baton.state import Fleet, LoadBoard, PrefixIndex, What, WorkerLease, changes

log = logging.getLogger(__name__)

PROBE_S = 2.0


class Discovery(Protocol):
    """Whoever finds pods. Reading `fleet` costs nothing."""

    @property
    def fleet(self) -> Fleet: ...

    async def wait(self, version: int) -> Fleet:
        """The fleet, once it is newer than that."""
        ...


class Pods:
    def __init__(
        self,
        discovery: Discovery,
        index: PrefixIndex,
        loads: LoadBoard,
        catalog: Catalog,
        pool: Pool,
        settings: PlacementSettings,
        clock: Clock,
    ) -> None:
        self.loads = loads
        self.index = index
        self.catalog = catalog
        self.shunning = Shunning(clock, self._ready)
        self.paces = Paces()
        self.placed = 0
        self._discovery = discovery
        self._pool = pool
        self._settings = settings
        self._policy = policy(settings)
        self._clock = clock
        self._rosters: dict[Kind, Roster] = {}
        self._origins: dict[str, Origin] = {}
        self._usable: Mapping[str, WorkerLease] = {}
        """The fleet, but for those whose address is none."""
        self._wrong: dict[str, str] = {}
        """Worker → what is wrong with its address."""
        self._seen: Fleet | None = None
        self._current: Generation | None = None

    def __repr__(self) -> str:
        return f"Pods({self.fleet!r}, {self.shunning!r})"

    @property
    def fleet(self) -> Fleet:
        return self._discovery.fleet

    @property
    def generation(self) -> Generation | None:
        """The one that new requests are for; None while nobody takes any."""
        self._look()
        return self._current

    @property
    def changing(self) -> bool:
        """Whether pods are leaving, or of several generations: then whoever is missing is on its way."""
        self._look()
        return len(self._rosters) > 1 or any([lease.draining for lease in self._usable.values()])

    def roster(self, kind: Kind) -> Roster:
        self._look()
        return self._rosters.get(kind) or Roster()

    def lease(self, id: str) -> WorkerLease | None:
        return self.fleet.workers.get(id)

    def origin(self, id: str) -> Origin:
        found = self._origins.get(id)
        if found is None:
            raise Unreached(f"{id} has left")
        return found

    def other(self, kind: Kind) -> Generation | None:
        """The largest generation besides this one."""
        self._look()
        return self.catalog.other(self._usable, kind)

    def place(self, kind: Kind, query: Query, *, patient: bool = False) -> Decision | Refusal:
        """Where a request goes now. Whoever is shunned is asked only when there is nobody else, and not by a
        request that can wait until a probe finds them well."""
        now = self._clock.now()
        health = self.paces.health(now, self.shunning.health)
        view = View(self.roster(kind), now, self.loads.mine, self.loads.others, health, self.loads.name)
        self.placed += 1
        shunned = self.shunning.shunned
        if shunned:
            found = self._policy.place(view, replace(query, excluded=query.excluded | shunned))
            if patient or isinstance(found, Decision):
                return found
        return self._policy.place(view, query)

    # ---- following the fleet ----

    def _look(self) -> None:
        fleet = self._discovery.fleet
        if fleet is self._seen:
            return
        self._seen = fleet
        now = self._clock.now()
        self._origins = self._reachable(fleet)
        self._usable = {id: lease for id, lease in fleet.workers.items() if id in self._origins}
        by_kind: dict[Kind, dict[str, WorkerLease]] = {}
        for id, lease in self._usable.items():
            by_kind.setdefault(kind_of(lease), {})[id] = lease
        self._rosters = {
            kind: Roster.of(leases, self._settings, now, self._rosters.get(kind))
            for kind, leases in by_kind.items()
        }
        self._current = self.catalog.current(self._usable)

    def _reachable(self, fleet: Fleet) -> dict[str, Origin]:
        origins: dict[str, Origin] = {}
        wrong: dict[str, str] = {}
        for id, lease in fleet.workers.items():
            try:
                origins[id] = origin_of(lease.http)
            except InvalidField as error:
                wrong[id] = str(error)
                if self._wrong.get(id) != wrong[id]:
                    log.error("a pod is left out for its address", extra={"worker": id, "cause": str(error)})
        self._wrong = wrong
        return origins

    async def follow(self) -> None:
        """For as long as the router runs."""
        last = Fleet(version=-1)
        suspects: set[asyncio.Task[None]] = set()
        while True:
            fleet = await self._discovery.wait(last.version)
            for change in changes(last, fleet):
                if change.what is What.RESTARTED:
                    self.shunning.restarted(change.lease.id)
                    self.paces.forget(change.lease.id)
                if change.what in (What.LEFT, What.EXPIRED):
                    task = asyncio.create_task(self._suspect(change.lease))
                    suspects.add(task)
                    task.add_done_callback(suspects.discard)
            last = fleet

    async def _suspect(self, lease: WorkerLease) -> None:
        """It is gone from the fleet. Streams that it still serves go on, unless it is dead."""
        self.shunning.restarted(lease.id)
        self.paces.forget(lease.id)
        try:
            origin = origin_of(lease.http)
        except InvalidField:
            return
        self._pool.forget(origin)
        if not await self._answers(origin, "/livez") and lease.id not in self.fleet.workers:
            self._pool.forget(origin, "it fell silent")

    async def _ready(self, id: str) -> bool:
        origin = self._origins.get(id)
        return origin is not None and await self._answers(origin, "/readyz")

    async def _answers(self, origin: Origin, path: str) -> bool:
        try:
            head, _ = await fetch(self._pool, origin, path, seconds=PROBE_S)
        except BatonError:
            return False
        return head.status == 200
