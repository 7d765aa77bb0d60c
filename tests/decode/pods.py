"""Prefill and decode workers in one test process: real engines, real sockets, real NIXL between them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton.core.types import Request, SamplingParams
from baton.decode.handoff import Handoffs
from baton.decode.landings import HandoffMeters
from baton.decode.peer import Peer
from baton.decode.receiver import introduction as hello
from baton.decode.settings import HandoffSettings
from baton.decode.timeline import Timeline
from baton.engine.config import EngineConfig
from baton.engine.worker import Worker
from baton.prefill.legs import LegDesk
from baton.protocol.engine import Update
from baton.telemetry import Metrics
from baton.tokens.identity import page_identities, root_salt

_ids = itertools.count()


@dataclass
class Pods:
    """What a test holds on to."""

    prefills: list[Worker]
    desks: list[LegDesk]
    peers: list[Peer]
    decode: Worker
    handoffs: Handoffs
    metrics: Metrics
    timelines: dict[str, Timeline] = field(default_factory=dict)

    async def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, through: Any = None, **where: Any
    ) -> list[list[int]]:
        """Greedy tokens of every prompt, all at once, handed over unless `through` another worker."""
        asked = [self.begin(prompt, sampling, through or self.handoffs, **where) for prompt in prompts]
        return await asyncio.wait_for(asyncio.gather(*(future for _, future in asked)), 60)

    def begin(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        through: Any,
        generated: Sequence[int] = (),
        **where: Any,
    ) -> tuple[str, asyncio.Future[list[int]]]:
        facts = self.decode.facts
        assert facts is not None
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        tokens: list[int] = []

        def sink(update: Update) -> None:
            if update.token is not None:
                tokens.append(update.token)
            if update.finish is not None and not done.done():
                if update.error is not None:
                    done.set_exception(RuntimeError(update.error))
                else:
                    done.set_result(tokens)

        salt = root_salt(facts.fingerprint.hex())
        identities = page_identities(prompt, facts.page_size, salt)
        id = f"r{next(_ids)}"
        request = Request(
            id=id, token_ids=tuple(prompt), generated=tuple(generated), identities=identities, salt=salt,
            sampling=sampling,
        )  # fmt: skip
        through.submit(request, sink, **where)
        return id, done

    async def settled(self, seconds: float = 10.0) -> None:
        """Until no attempt is open anywhere and no page is locked or fenced."""
        async with asyncio.timeout(seconds):
            while self.handoffs.inflight or any(desk.open for desk in self.desks):
                await asyncio.sleep(0.02)
            while self.handoffs.unrecorded:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    model: Path, *, prefill_ranks: Sequence[int] = (1,), decode_ranks: int = 1,
    settings: HandoffSettings | None = None, secret: str = "", listen: str = "tcp://127.0.0.1:*",
    **engine: Any,
) -> AsyncIterator[Pods]:  # fmt: skip
    def config(ranks: int) -> EngineConfig:
        common = {"pages": 600, "max_running": 32, "prefill_budget": 64, "threads": 1, **engine}
        return EngineConfig(model=str(model), tensor_parallel=ranks, handover=True, **common)

    async with AsyncExitStack() as stack:
        workers = [Worker(config(ranks)) for ranks in (*prefill_ranks, decode_ranks)]
        await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        *prefills, decode = workers
        desks = [LegDesk(w, hello(w, "prefill"), listen, secret) for w in prefills]
        for desk in desks:
            await stack.enter_async_context(desk)
        peers = [Peer(desk.address, hello(decode, "decode"), secret) for desk in desks]
        handoffs = Handoffs(decode, peers, settings or HandoffSettings(local_below=4))
        for peer in peers:
            await stack.enter_async_context(peer)
        metrics = Metrics()
        handoffs.meters = HandoffMeters(metrics, lambda: handoffs.inflight, lambda: decode.load)
        made = Pods(prefills, desks, peers, decode, handoffs, metrics)
        handoffs.finished = made.timelines.__setitem__
        async with asyncio.timeout(30):
            while not all(peer.ready for peer in peers):
                await asyncio.sleep(0.01)
        yield made
