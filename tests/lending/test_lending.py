"""Prefixes read out of another worker's pool: real engines, real NIXL reads, the same tokens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.checkpoints import Make

from baton.core.types import Request, SamplingParams
from baton.engine.config import EngineConfig
from baton.engine.worker import Worker
from baton.lending import Lending
from baton.protocol import engine as wire
from baton.protocol import pods
from baton.tokens.identity import page_identities, root_salt

GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, seed=1)


@dataclass
class Side:
    """One worker; its name to the other is its role here."""

    name: str
    worker: Worker
    lending: Lending = field(init=False)
    paths: asyncio.Queue[wire.Path] = field(default_factory=asyncio.Queue)
    mute: bool = False
    """Says nothing to the other any more."""

    def join(self, other: Side) -> None:
        def send(to: str, message: pods.Message) -> bool:
            assert to == other.name
            heard = pods.read(pods.encode(message))
            assert isinstance(heard, pods.Borrow | pods.Lent | pods.Returned)
            if not self.mute:
                asyncio.get_running_loop().call_soon(other.lending.heard, self.name, heard)
            return True

        self.lending = Lending(self.worker, send)
        self.worker.listener = self
        assert other.worker.facts is not None
        self.worker.tell(wire.Meet(other.name, other.worker.facts.ranks))

    def met(self, path: wire.Path) -> None:
        self.paths.put_nowait(path)

    def reserved(self, reservation: wire.Reservation) -> None: ...
    def ended(self, end: wire.LegEnd) -> None: ...
    def landed(self, attempt: str) -> None: ...
    def lost(self, worker: str, reason: str) -> None: ...

    def identities(self, prompt: list[int]) -> tuple[tuple[bytes, ...], bytes]:
        facts = self.worker.facts
        assert facts is not None
        salt = root_salt(facts.fingerprint.hex())
        return page_identities(prompt, facts.page_size, salt), salt

    async def generate(self, id: str, prompt: list[int]) -> tuple[list[int], int]:
        """Tokens, and how many of the prompt were cached."""
        identities, salt = self.identities(prompt)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tokens: list[int] = []
        cached = 0

        def sink(update: wire.Update) -> None:
            nonlocal cached
            assert update.error is None, update.error
            cached = cached if update.cached is None else update.cached
            tokens.extend([] if update.token is None else [update.token])
            if update.finish is not None:
                done.set_result(None)

        self.worker.submit(
            Request(id=id, token_ids=tuple(prompt), identities=identities, salt=salt, sampling=GREEDY), sink
        )
        async with asyncio.timeout(30):
            await done
        return tokens, cached


@asynccontextmanager
async def two(model: Path, reader_ranks: int = 1, owner_ranks: int = 1) -> AsyncIterator[tuple[Side, Side]]:
    def worker(ranks: int) -> Worker:
        return Worker(
            EngineConfig(
                model=str(model), tensor_parallel=ranks, handover=True, pages=300, max_running=8, threads=1
            )
        )

    async with AsyncExitStack() as stack:
        sides = [Side("reader", worker(reader_ranks)), Side("owner", worker(owner_ranks))]
        await asyncio.gather(*(stack.enter_async_context(side.worker) for side in sides))
        reader, owner = sides
        reader.join(owner)
        owner.join(reader)
        async with asyncio.timeout(30):
            for side in sides:
                await side.paths.get()
        yield reader, owner


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(101) for _ in range(length)]


async def quiet(*sides: Side) -> None:
    async with asyncio.timeout(5):
        while any(side.lending.reading or side.lending.loans for side in sides):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("reader_ranks", "owner_ranks"), [(1, 1), (2, 1), (1, 2)])
def test_what_another_worker_has_is_read_and_gives_its_tokens(
    reader_ranks: int, owner_ranks: int, checkpoint: Make
) -> None:
    async def check() -> None:
        async with two(checkpoint("qwen3").directory, reader_ranks, owner_ranks) as (reader, owner):
            asked = prompt(100)
            want, _ = await owner.generate("a", asked)
            identities, _ = reader.identities(asked)
            assert await reader.lending.fetch("owner", identities, 1, 10.0) == 6
            assert await reader.generate("a", asked) == (want, 96)
            # What is here already is not read again, and a longer prompt's rest is computed.
            assert await reader.lending.fetch("owner", identities, 1, 10.0) == 0
            longer = asked + prompt(40, seed=1)
            alone, _ = await owner.generate("b", longer)
            assert await reader.lending.fetch("owner", reader.identities(longer)[0], 1, 10.0) == 2
            assert await reader.generate("b", longer) == (alone, 128)
            await quiet(reader, owner)
            assert reader.lending.pages == 8

    asyncio.run(check())


def test_an_owner_that_lacks_it_or_is_silent_costs_time_and_nothing_else(checkpoint: Make) -> None:
    async def check() -> None:
        async with two(checkpoint("qwen3").directory) as (reader, owner):
            asked = prompt(100)
            identities, _ = reader.identities(asked)
            assert await reader.lending.fetch("owner", identities, 1, 10.0) == 0
            want, _ = await owner.generate("a", asked)
            owner.mute = True
            assert await reader.lending.fetch("owner", identities, 1, 0.3) == 0
            owner.mute = False
            assert await reader.generate("a", asked) == (want, 0)
            async with asyncio.timeout(2):
                while reader.lending.reading:
                    await asyncio.sleep(0.01)
            assert reader.worker.load is not None and owner.worker.load is not None
            load = reader.worker.load
            assert load.pages_free + load.pages_cached == load.pages_total, "pages of the fetch were lost"

    asyncio.run(check())
