"""A real engine and a real Redis: what a router sees of a pod that joins, serves, drains and leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.checkpoints import Make, checkpoint

from baton.core.types import Request, SamplingParams
from baton.engine.config import EngineConfig
from baton.engine.worker import Worker
from baton.membership import Membership, PodSettings, lease_of
from baton.protocol.engine import Path, Update
from baton.state import EmbeddedRedis, FleetMirror, Link, StateSettings
from baton.telemetry import Metrics
from baton.tokens.identity import page_identities, root_salt

__all__ = ["checkpoint"]

GREEDY = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True, seed=1)


async def eventually(holds: Callable[[], bool], seconds: float = 8.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "did not come about in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@asynccontextmanager
async def started(checkpoint: Make) -> AsyncIterator[Worker]:
    config = EngineConfig(
        model=str(checkpoint("qwen3").directory), pages=40, max_running=8, prefill_budget=64, threads=1
    )
    async with Worker(config) as worker:
        yield worker


async def serve(worker: Worker, id: str, prompt: list[int]) -> tuple[bytes, ...]:
    """Have a prompt answered; the identities of all pages that are then complete."""
    assert worker.facts is not None
    salt = root_salt(worker.facts.fingerprint.hex())
    request = Request(
        id=id, token_ids=tuple(prompt), salt=salt, sampling=GREEDY,
        identities=page_identities(prompt, worker.facts.page_size, salt),
    )  # fmt: skip
    done, tokens = asyncio.Event(), list(prompt)

    def sink(update: Update) -> None:
        if update.token is not None:
            tokens.append(update.token)
        if update.finish is not None:
            done.set()

    worker.submit(request, sink)
    await done.wait()
    return page_identities(tokens[:-1], worker.facts.page_size, salt)  # the last token has no KV


def member_of(worker: Worker, link: Link | None, incarnation: str = "inc-1") -> Membership:
    assert worker.facts is not None
    lease = lease_of(
        worker.facts, PodSettings(id="d-0"), incarnation=incarnation, role="unified", model="m", port=8000
    )
    return Membership(worker, lease, link)


def test_a_member_s_whole_life_as_a_router_sees_it(checkpoint: Make) -> None:
    async def story() -> None:
        async with (
            started(checkpoint) as worker,
            EmbeddedRedis() as redis,
            Link(StateSettings(url=redis.url)) as link,
            Link(StateSettings(url=redis.url)) as routers,
            FleetMirror(routers, "r1") as mirror,
        ):
            early = await serve(worker, "early", list(range(40)))
            assert len(early) == 3
            member, metrics = member_of(worker, link), Metrics()
            member.measure(metrics)
            async with member:
                await _joins(worker, member, mirror, early)
                await _outlives(redis, worker, mirror, metrics)
                member.drain()
                assert await eventually(lambda: mirror.fleet.workers["d-0"].draining) < 0.6, "at once"
                assert member.lease.draining
            assert await eventually(lambda: "d-0" not in mirror.fleet.workers) < 0.6, "at once"
            await eventually(lambda: not mirror.index.pages)
            assert not mirror.fleet.expired, "it left, it did not die"
            assert [key for key in await link.ask("KEYS", "*events*")] == []

    asyncio.run(story())


async def _joins(worker: Worker, member: Membership, mirror: FleetMirror, early: tuple[bytes, ...]) -> None:
    await eventually(lambda: "d-0" in mirror.fleet.workers)
    told = mirror.fleet.workers["d-0"]
    assert (told.pages, told.page_size, told.role) == (40, 16, "unified")
    await eventually(lambda: mirror.index.lookup(early) == {"d-0": 3})
    served = await serve(worker, "first", list(range(60, 100)))
    await eventually(lambda: mirror.index.lookup(served) == {"d-0": len(served)}, 1.0)
    # More pages than the pool has: what was first is evicted, and the index says so.
    for number in range(8):
        await serve(worker, f"more{number}", [number] * 90)
    await eventually(lambda: mirror.index.lookup(early) == {"d-0": 0}, 1.0)
    assert worker.load is not None
    await eventually(
        lambda: worker.load is not None and mirror.index.pages["d-0"] == worker.load.pages_cached
    )
    await eventually(lambda: mirror.fleet.workers["d-0"].load == member.lease.load, 3.0)
    load = mirror.fleet.workers["d-0"].load
    assert load.decode_step_ms > 0 and load.prefill_tokens_per_s > 0
    assert load.prefill_tokens_queued == load.running == 0
    assert load.pages_free + load.pages_evictable == 40
    member.measured("p-0", Path("inc-9", 0, True, "", 2.5, 2.0, "tcp"))
    assert await eventually(lambda: mirror.fleet.workers["d-0"].bandwidths == {"p-0": 2.5}) < 0.6, "at once"
    assert member.lease.events == member.writer.sequence > 0  # type: ignore[union-attr]


async def _outlives(redis: EmbeddedRedis, worker: Worker, mirror: FleetMirror, metrics: Metrics) -> None:
    """Redis is killed, comes back empty, and misses nothing of what was served meanwhile."""
    await redis.kill()
    served = await serve(worker, "meanwhile", list(range(30, 70)))
    await eventually(lambda: b"baton_state_reachable 0.0" in metrics.render())
    assert "d-0" in mirror.fleet.workers
    await redis.start()
    await eventually(lambda: mirror.index.lookup(served).get("d-0") == len(served))
    await eventually(lambda: b"baton_state_reachable 1.0" in metrics.render())
    after = await serve(worker, "after", list(range(20, 60)))
    await eventually(lambda: mirror.index.lookup(after).get("d-0") == len(after), 1.0)
    assert "d-0" in mirror.fleet.workers


def test_without_redis_a_member_knows_its_lease_and_nobody_is_told(checkpoint: Make) -> None:
    async def story() -> None:
        async with started(checkpoint) as worker, member_of(worker, None) as member:
            metrics = Metrics()
            member.measure(metrics)
            assert b"baton_state" not in metrics.render()
            await serve(worker, "one", list(range(40)))
            assert member.lease.load.decode_step_ms > 0
            assert not member.lease.draining
            member.measured("p-0", Path("inc-9", 0, True, "", 2.5, 2.0, "tcp"))
            member.measured("", Path("inc-8", 0, True, "", 2.5, 2.0, "tcp"))
            member.drain()
            assert member.lease.draining and member.lease.bandwidths == {"p-0": 2.5}

    asyncio.run(story())
