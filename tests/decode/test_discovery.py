"""Prefill pods that come, drain, die and return under the same name, found by their leases alone.

Real engines, a real Redis, real NIXL, in one process: every pod is a worker with a desk and a membership.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.checkpoints import Make
from tests.decode.pods import Pods

from baton.core.ids import incarnation_id
from baton.core.types import SamplingParams
from baton.decode.discovery import Discovery
from baton.decode.handoff import Handoffs
from baton.decode.peer import Peer
from baton.decode.settings import HandoffSettings
from baton.engine.config import EngineConfig
from baton.engine.worker import Worker
from baton.membership import Membership, PodSettings, introduction, lease_of
from baton.prefill.legs import LegDesk
from baton.state import EmbeddedRedis, Link, StateSettings
from baton.telemetry import Metrics

GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, seed=1)


async def eventually(holds: Callable[[], bool], seconds: float = 8.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "did not come about in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Prefill:
    """One run of a prefill pod, on an engine that may serve several runs one after the other."""

    member: Membership
    desk: LegDesk
    stack: AsyncExitStack

    @property
    def incarnation(self) -> str:
        return self.member.lease.incarnation

    async def leave(self) -> None:
        """As SIGTERM: drain, then go."""
        self.member.drain()
        self.desk.drain()
        await eventually(lambda: not self.desk.open, 20)
        await self.stack.aclose()

    async def fall_silent(self) -> None:
        """As kill -9: no word to anybody."""
        assert self.member.keeper is not None and self.member.writer is not None
        await self.member.keeper._rounds.close()
        await self.member.writer._rounds.close()
        self.desk.worker.listener = None
        for task in self.desk._tasks:
            task.cancel()
        self.desk._context.destroy(linger=0)


class Cluster:
    """One decode pod, and engines for prefill pods."""

    def __init__(self, pods: Pods, engines: list[Worker], discovery: Discovery, redis: EmbeddedRedis) -> None:
        self.pods = pods
        self.engines = engines
        self.discovery = discovery
        self.redis = redis
        self._link = Link(StateSettings(url=redis.url))
        self._runs: list[Prefill] = []

    @property
    def handoffs(self) -> Handoffs:
        return self.pods.handoffs

    async def start(self, engine: int, id: str, **pod: Any) -> Prefill:
        worker, incarnation = self.engines[engine], incarnation_id()
        stack = AsyncExitStack()
        desk = LegDesk(worker, introduction(worker, "prefill", incarnation, id), "tcp://127.0.0.1:*")
        await stack.enter_async_context(desk)
        assert worker.facts is not None
        lease = lease_of(
            worker.facts, PodSettings(id=id, **pod), incarnation=incarnation, role="prefill", model="m",
            port=8001, bound=desk.address,
        )  # fmt: skip
        member = Membership(worker, lease, self._link)
        desk.measured = member.measured
        await stack.enter_async_context(member)
        self._runs.append(Prefill(member, desk, stack))
        return self._runs[-1]

    def peer(self, id: str) -> Peer | None:
        return next((peer for peer in self.handoffs.peers if peer.pod == id), None)

    def serves(self, run: Prefill) -> bool:
        """The decode pod has met this run, measured the path, and would send it work."""
        return any(p.worker == run.incarnation and p.takes_work and p.met for p in self.handoffs.peers)

    async def ask(self, count: int, seed: int, prefer: tuple[str, ...] | None = None) -> list[list[int]]:
        chance = random.Random(seed)
        prompts = [[chance.randrange(101) for _ in range(chance.randrange(30, 110))] for _ in range(count)]
        through = _Preferring(self.handoffs, prefer)
        return await self.pods.generate(prompts, GREEDY, through=through)

    async def close(self) -> None:
        for run in self._runs:
            await run.stack.aclose()
        await self._link.close()


@dataclass
class _Preferring:
    handoffs: Handoffs
    prefer: tuple[str, ...] | None

    def submit(self, request: Any, sink: Any) -> None:
        self.handoffs.submit(request, sink, self.prefer)


@asynccontextmanager
async def cluster(checkpoint: Make, engines: int, **handoff: Any) -> AsyncIterator[Cluster]:
    config = EngineConfig(
        model=str(checkpoint("qwen3").directory), pages=600, max_running=32, prefill_budget=64, threads=1,
        handover=True,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        workers = [Worker(config) for _ in range(engines + 1)]
        await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        decode, *prefills = workers
        redis = await stack.enter_async_context(EmbeddedRedis())
        link = await stack.enter_async_context(Link(StateSettings(url=redis.url)))
        handoffs = Handoffs(decode, [], HandoffSettings(local_below=4, timeout_s=20, **handoff))
        incarnation = incarnation_id()
        assert decode.facts is not None
        lease = lease_of(
            decode.facts, PodSettings(id="d-0"), incarnation=incarnation, role="decode", model="m", port=8000
        )
        member = Membership(decode, lease, link)
        handoffs.observe(member.measured)
        hello = introduction(decode, "decode", incarnation, "d-0")
        discovery = await stack.enter_async_context(Discovery(member, handoffs, hello, ""))
        await stack.enter_async_context(member)
        pods = Pods(prefills, [], [], decode, handoffs, Metrics())
        handoffs.finished = pods.timelines.__setitem__
        made = Cluster(pods, prefills, discovery, redis)
        stack.push_async_callback(made.close)
        yield made


def computed_by(found: Cluster) -> set[str]:
    """Pods that computed the prompts since the last call."""
    told = {timeline.prefill for timeline in found.pods.timelines.values()}
    found.pods.timelines.clear()
    return told


def test_pods_that_come_and_go_while_requests_run(checkpoint: Make) -> None:
    async def check() -> None:
        async with cluster(checkpoint, engines=2) as found:
            alone = await found.pods.generate([[1, 2, 3] * 22], GREEDY)
            assert computed_by(found) == {""}, "there was nobody to ask"
            first = await found.start(0, "p-0")
            await eventually(lambda: found.serves(first))
            await found.pods.generate([[1, 2, 3] * 22, [9] * 60], GREEDY)
            assert computed_by(found) == {"", "p-0"}, "what is cached is not asked for"
            await eventually(lambda: found.discovery._member.lease.bandwidths.keys() == {"p-0"})
            await eventually(lambda: first.member.lease.bandwidths.keys() == {"d-0"})

            work = asyncio.create_task(found.ask(30, seed=1))
            second = await found.start(1, "p-1")
            await work
            await eventually(lambda: found.serves(second))
            await _asked_in_the_router_s_order(found)
            await _with_redis_killed(found, first, second)

            work = asyncio.create_task(found.ask(30, seed=6))
            await eventually(lambda: first.desk.open > 0)
            await first.leave()
            await work
            await eventually(lambda: found.peer("p-0") is None)
            await eventually(lambda: found.discovery._member.lease.bandwidths.keys() == {"p-1"})
            computed_by(found)
            await found.ask(5, seed=7)
            assert computed_by(found) == {"p-1"}
            failures = set(found.handoffs.failures)
            assert failures <= {"ended", "peer_lost", "refused"}, "asked just before it drained"
            assert alone == await found.pods.generate([[1, 2, 3] * 22], GREEDY)
            await found.pods.settled()

    asyncio.run(check())


async def _asked_in_the_router_s_order(found: Cluster) -> None:
    # Half a second may pass until a pod says that it is idle again, and until then the other is asked.
    await eventually(lambda: not any(peer.waiting for peer in found.handoffs.peers))
    computed_by(found)
    await found.ask(10, seed=2)
    assert computed_by(found) == {"p-0", "p-1"}
    await found.ask(6, seed=3, prefer=("p-1", "p-0"))
    assert computed_by(found) == {"p-1"}
    await found.ask(6, seed=4, prefer=("p-9", "p-0"))
    assert computed_by(found) == {"p-0"}, "the first of those that are there"
    await found.ask(3, seed=5, prefer=())
    assert computed_by(found) == {""}


async def _with_redis_killed(found: Cluster, first: Prefill, second: Prefill) -> None:
    """It comes back empty, and nobody is parted from."""
    await found.redis.kill()
    await found.ask(5, seed=11)
    assert computed_by(found) <= {"p-0", "p-1"}, "who is known is still asked"
    await found.redis.start()
    for run in (first, second):
        assert run.member.keeper is not None
        before = run.member.keeper.health.renewals
        await eventually(lambda keeper=run.member.keeper, then=before: keeper.health.renewals > then)  # type: ignore[misc]
    assert found.serves(first) and found.serves(second)
    assert not found.handoffs.failures


def test_a_pod_that_returns_under_its_name_replaces_the_one_before(checkpoint: Make) -> None:
    """The old run is alive all the time, as behind a broken network: nothing of it is believed any more."""

    async def check() -> None:
        async with cluster(checkpoint, engines=2) as found:
            other = await found.start(1, "p-1", generation="green")
            old = await found.start(0, "p-0")
            await eventually(lambda: found.serves(old))
            work = asyncio.create_task(found.ask(30, seed=1))
            await eventually(lambda: old.desk.open > 0)
            assert old.member.keeper is not None
            await old.member.keeper._rounds.close()  # its beats are no longer seen
            new = await found.start(1, "p-0")
            await eventually(lambda: found.serves(new))
            assert not found.serves(old)
            await eventually(lambda: len(found.handoffs.peers) == 1)
            want = await work
            computed_by(found)
            await found.ask(4, seed=2)
            assert computed_by(found) == {"p-0"}
            await eventually(lambda: not old.desk.open and not old.desk.visitors, 2.0)
            assert want == await found.ask(30, seed=1), "cached: nothing wrong came in"
            assert found.peer("p-1") is None and not other.desk.visitors, "of another generation"

    asyncio.run(check())


def test_a_pod_that_falls_silent_is_done_without(checkpoint: Make) -> None:
    async def check() -> None:
        async with cluster(checkpoint, engines=1) as found:
            first = await found.start(0, "p-0")
            await eventually(lambda: found.serves(first))
            want = await found.ask(10, seed=1, prefer=())
            work = asyncio.create_task(found.ask(20, seed=2))
            await eventually(lambda: first.desk.open > 0)
            await first.fall_silent()
            await asyncio.wait_for(work, 15)
            await eventually(lambda: found.peer("p-0") is None)
            assert want == await found.ask(10, seed=1)

    asyncio.run(check())
