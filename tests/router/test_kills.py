"""Worker processes killed while clients ask, a hundred times if there is time: no error, no wrong token."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest
from tests.router import nursery
from tests.router.stage import VOCABULARY, Router, Stage, expected
from tests.spawned import await_true

import openai
from baton.testing.simulated import SimulatedSettings, Timing

BETWEEN_S = 0.1
CLIENTS = 8
TOKENS = 40
STEP_S = 0.004
LEAST = 3
"""Pods that live, of four, when one of them is killed."""


class Crowd:
    """Clients that ask, whole and streamed, until told to stop, and check each answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stop = False
        self.answers = 0

    async def run(self) -> None:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0) as client:
            await asyncio.gather(*(self.one(client, number) for number in range(CLIENTS)))

    async def one(self, client: openai.AsyncOpenAI, number: int) -> None:
        chance = random.Random(number)
        while not self.stop:
            prompt = [chance.randrange(1, VOCABULARY) for _ in range(chance.randrange(1, 80))]
            seed, stream = chance.randrange(1, 2**40), chance.random() < 0.7
            ask: dict[str, Any] = {"model": "tiny", "prompt": prompt, "seed": seed, "max_tokens": TOKENS}
            made: Any = await client.completions.create(**ask, stream=stream)
            if stream:
                text = "".join([chunk.choices[0].text async for chunk in made])
            else:
                text = made.choices[0].text
            assert text == expected(prompt, TOKENS, seed)
            self.answers += 1


def await_live(router: Router, dead: set[str]) -> dict[str, str]:
    """Pods by their incarnations, once enough of them live: whoever kills faster than pods can come back
    leaves nobody to answer, and on a slow machine that is what a test would measure."""

    live: dict[str, str] = {}

    def enough() -> bool:
        nonlocal live
        live = {id: run for id, run in router.incarnations().items() if run not in dead}
        return len(live) >= LEAST

    await_true(enough, 60)
    return live


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_under_load_lose_nothing(stage: Stage, router: Router, kills: int) -> None:
    def grow(id: str) -> ForkServerProcess:
        return nursery.start(
            SimulatedSettings(
                id=id, state_url=stage.redis.url, heartbeat_s=0.2, expiry_s=0.8, vocabulary=VOCABULARY,
                timing=Timing(step_s=STEP_S),
            )
        )  # fmt: skip

    pods = {f"k{number}": grow(f"k{number}") for number in range(4)}
    try:
        router.await_fleet(*pods)
        crowd = Crowd(router.url)

        async def story() -> None:
            asking = asyncio.create_task(crowd.run())
            chance = random.Random(1)
            dead: set[str] = set()
            for number in range(kills):
                await asyncio.sleep(BETWEEN_S)
                live = await asyncio.to_thread(await_live, router, dead)
                id = chance.choice(sorted(live))
                dead.add(live[id])
                pods[id].kill()
                await asyncio.to_thread(pods.pop(id).join)
                # Some come back under their name, as of a stateful set; most under another.
                back = id if number % 3 == 0 else f"k{number + 4}"
                pods[back] = grow(back)
                assert not asking.done(), asking.exception()
            await asyncio.sleep(0.5)
            crowd.stop = True
            await asking

        asyncio.run(story())
        assert crowd.answers > kills
    finally:
        for process in pods.values():
            process.kill()
            process.join()
        await_true(lambda: not router.fleet(), 10)


def test_a_worker_that_stands_still_is_left(stage: Stage, router: Router) -> None:
    """Its sockets stay open, its process does nothing: only its silence tells."""
    timing = Timing(step_s=0.02)
    pods = [
        nursery.start(
            SimulatedSettings(
                id=id, state_url=stage.redis.url, heartbeat_s=0.2, expiry_s=0.8, vocabulary=VOCABULARY,
                timing=timing,
            )
        )
        for id in ("s1", "s2")
    ]  # fmt: skip
    try:
        router.await_fleet("s1", "s2")
        client = openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0)
        with client:
            streams: list[Any] = [
                client.completions.create(model="tiny", prompt=[number], seed=1, max_tokens=60, stream=True)
                for number in (1, 2, 3, 4)
            ]
            firsts = [next(stream).choices[0].text for stream in streams]
            assert pods[0].pid is not None
            os.kill(pods[0].pid, signal.SIGSTOP)
            began = time.monotonic()
            for number, (first, stream) in enumerate(zip(firsts, streams, strict=True), start=1):
                rest = "".join([chunk.choices[0].text for chunk in stream])
                assert first + rest == expected([number], 60, 1)
            assert time.monotonic() - began < 10
    finally:
        for process in pods:
            process.kill()
            process.join()
        await_true(lambda: not router.fleet(), 10)
