"""What the API server lists and what Redis tells, put together, without a router around it."""

from __future__ import annotations

import asyncio
from types import MappingProxyType

from tests.router.apiserver import ApiServer
from tests.state.simulated import HastyClock

from baton.router.kubernetes import Api, KubernetesFleet
from baton.router.wire import Pool
from baton.state import Fleet
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
