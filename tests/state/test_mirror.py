"""All that a router knows, at the intervals it runs with, while Redis suffers and workers come and go."""

from __future__ import annotations

import asyncio

from tests.state.simulated import Worker, each_at_once, eventually, identities, linked

from baton.state import FleetMirror


def _knows(mirror: FleetMirror, *workers: Worker) -> bool:
    held = {id: set(mine) for id, mine in mirror.index._held.items()}
    return held == {one.keeper.lease.id: set(one.held) for one in workers}


def test_a_redis_that_comes_back_empty_is_filled_again() -> None:
    async def story(what: str) -> None:
        async with linked() as (redis, link), FleetMirror(link, "r1") as mirror:
            async with (
                Worker(link, "w1", heartbeat_s=1.0, expiry_s=3.0, check_s=1.0) as one,
                Worker(link, "w2", heartbeat_s=1.0, expiry_s=3.0, check_s=1.0) as other,
            ):
                chain = one.store(identities(200))
                other.change([], chain[:40])
                await eventually(lambda: mirror.index.lookup(chain) == {"w1": 200, "w2": 40})
                if what == "flush":
                    await link.ask("FLUSHALL")
                else:
                    await redis.kill()
                    other.store(identities(5))
                    await asyncio.sleep(0.5)
                    assert not mirror.health.link.reachable
                    assert mirror.index.lookup(chain) == {"w1": 200, "w2": 40}, "it serves on what it knows"
                    await redis.start()
                async with FleetMirror(link, "r2") as late:
                    await eventually(lambda: _knows(late, one, other) and _knows(mirror, one, other))
                assert len(mirror.fleet.workers) == 2 and mirror.fleet.expired == frozenset()
                await eventually(lambda: mirror.health.lag == 0)
            await eventually(lambda: not mirror.fleet.workers and not mirror.index.pages)

    each_at_once(story, ["flush", "restart"])


def test_a_restarted_worker_is_known_by_what_it_holds_now() -> None:
    async def story() -> None:
        async with linked() as (_, link), FleetMirror(link, "r1") as mirror:
            old = await Worker(link).__aenter__()
            old.store(identities(30))
            await eventually(lambda: _knows(mirror, old))
            await old.crash()
            async with Worker(link, incarnation="inc-2") as new:
                await eventually(lambda: _knows(mirror, new))
                new.store(identities(3))
                await eventually(lambda: _knows(mirror, new))
                await new.crash()
                await eventually(lambda: mirror.index.pages == {})
            assert mirror.fleet.expired == {"w1"}

    asyncio.run(story())
