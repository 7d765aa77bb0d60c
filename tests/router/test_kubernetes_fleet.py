"""What the API server lists and what Redis tells, put together, without a router around it."""

from __future__ import annotations

import asyncio
from types import MappingProxyType

import msgspec
from tests.router.apiserver import ApiServer
from tests.state.simulated import HastyClock

from baton.core.clock import SystemClock
from baton.router.kubernetes import Api, KubernetesFleet
from baton.router.wire import Pool
from baton.state import Fleet, WorkerLoad
from baton.testing.simulated import Peers, SimulatedSettings, SimulatedWorker


def test_a_pod_whose_beats_end_in_redis_stays_until_it_was_asked_itself() -> None:
    """It may have lost its Redis alone. Redis has told of it for long, so nobody has asked it lately."""

    async def story() -> None:
        api, pool, clock, leases = ApiServer(), Pool(), HastyClock(), Fleet()
        await api.start()
        async with SimulatedWorker(SimulatedSettings(id="p1", state_url=""), Peers()) as worker:
            await api.add("p1", worker.port)
            listing = Api("app=baton", namespace="llm", url=api.url)
            async with KubernetesFleet(listing, "http", pool, lambda: leases, clock) as fleet:
                while "p1" not in fleet.fleet.workers:
                    await fleet.wait(fleet.fleet.version)
                told = MappingProxyType(dict(fleet.fleet.workers))
                leases = Fleet(told, version=1)
                assert fleet.fleet.workers == told
                clock.ahead_s = 600.0
                leases = Fleet(told, version=2)
                assert fleet.fleet.workers == told
                leases = Fleet(version=3, expired=frozenset(("p1",)))
                assert fleet.fleet.workers == told
        pool.close()
        await api.stop()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_who_was_not_heard_of_keeps_its_lease_as_it_was() -> None:
    """Placement takes the very same lease for an old one: what it says has gone on since."""

    async def story() -> None:
        api, pool, leases = ApiServer(), Pool(), Fleet()
        await api.start()
        peers = Peers()
        async with (
            SimulatedWorker(SimulatedSettings(id="p1", state_url=""), peers) as one,
            SimulatedWorker(SimulatedSettings(id="p2", state_url=""), peers) as two,
        ):
            for worker in (one, two):
                await api.add(worker.settings.id, worker.port)
            listing = Api("app=baton", namespace="llm", url=api.url)
            async with KubernetesFleet(listing, "http", pool, lambda: leases, SystemClock()) as fleet:
                while len(fleet.fleet.workers) < 2:
                    await fleet.wait(fleet.fleet.version)
                told = {
                    id: msgspec.structs.replace(lease, load=WorkerLoad(running=1))
                    for id, lease in fleet.fleet.workers.items()
                }
                leases = Fleet(MappingProxyType(dict(told)), version=1)
                before = fleet.fleet.workers
                told["p2"] = msgspec.structs.replace(told["p2"], load=WorkerLoad(running=3))
                leases = Fleet(MappingProxyType(told), version=2)
                after = fleet.fleet.workers
                assert [after[id].load.running for id in ("p1", "p2")] == [1, 3]
                assert after["p1"] is before["p1"]
        pool.close()
        await api.stop()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_watches_leave_no_connection_behind() -> None:
    async def story() -> None:
        api = ApiServer()
        await api.start()
        listing = Api("app=baton", namespace="llm", url=api.url)
        for _ in range(3):
            watching = asyncio.create_task(_watched(listing))
            while not api.end_watches():
                await asyncio.sleep(0.01)
            await watching
        assert "Pool(0 idle, 0 lent)" in repr(listing)
        listing.close()
        await api.stop()

    asyncio.run(asyncio.wait_for(story(), 20))


async def _watched(listing: Api) -> None:
    async for _ in listing.watch("100", 60):
        pass
