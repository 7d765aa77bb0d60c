"""Many clients at once, some of whom leave, while pods are killed: every answer that ends must be right.

A client that loses its pod, or is told to come back later, asks another pod, as a router would. Anything
else that it is told is a failure of the test. Answers are compared token by token with those of one engine
alone, which sums in another order: where two tokens are as likely to the last bits, either is right, and
`near_tie` tells such a place from a wrong page.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from tests.faults.fleet import DecodePod, Fleet, Pod, body
from tests.faults.prompts import texts

from baton.core.types import SamplingParams
from baton.engine import LLM

CLIENTS = 8
NEAR = 1e-4
"""Log-probabilities of one token, computed in another order, were seen to differ by a tenth of this."""
PASSING = {"draining", "worker_died", "starting", "unavailable", "queue_full"}
"""What a client may be told by a pod that others have disturbed."""


@dataclass(frozen=True)
class Asked:
    prompt: str
    params: dict[str, Any]
    leaves_after: float | None
    """Seconds after which the client is gone."""

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **self.params})


def questions(count: int, seed: int) -> list[Asked]:
    """Prompts of any length, many of them with a common beginning; greedy and seeded."""
    chance = random.Random(seed)
    long = texts(24, 4000, seed)
    made = []
    for _ in range(count):
        text = chance.choice(long)[: chance.choice([40, 300, 1000, 2500, 4000])]
        tail = chance.choice(["", f" And {chance.randrange(1000)}?"])
        params: dict[str, Any] = {"max_tokens": chance.choice([1, 4, 12, 40])}
        if chance.random() < 0.3:
            params |= {"temperature": 0.8, "top_p": 0.9, "seed": chance.randrange(2**31)}
        leaves = chance.random() * 0.5 if chance.random() < 0.12 else None
        made.append(Asked(text + tail, params, leaves))
    return made


@dataclass(frozen=True)
class Wrong:
    """An answer with other tokens than the engine alone gives."""

    asked: Asked
    got: list[int]
    want: list[int]

    def __str__(self) -> str:
        return f"{self.asked.params} …{self.asked.prompt[-60:]!r}\n  got  {self.got}\n  want {self.want}"


def near_tie(alone: LLM, wrong: Wrong) -> bool:
    """Whether the two part where rounding decides: between tokens that are as likely but for `NEAR`, or that
    a temperature which differs by that share would have drawn."""
    sampling, pairs = wrong.asked.sampling, zip(wrong.got, wrong.want, strict=False)
    at = next((i for i, (got, want) in enumerate(pairs) if got != want), None)
    if at is None:
        return False  # one is longer
    if sampling.greedy:
        (output,) = alone.generate([wrong.asked.prompt], replace(sampling, logprobs=2))
        assert output.logprobs is not None
        top = dict(output.logprobs[at].top)
        return wrong.got[at] in top and abs(top[wrong.got[at]] - top[wrong.want[at]]) < NEAR
    blurred = [replace(sampling, temperature=sampling.temperature * share) for share in (1 - NEAR, 1 + NEAR)]
    outputs = alone.generate([wrong.asked.prompt] * 2, blurred)
    return any(list(output.token_ids[: at + 1]) == wrong.got[: at + 1] for output in outputs)


@dataclass
class Storm:
    fleet: Fleet
    asked: Sequence[Asked]
    want: Sequence[Sequence[int]]
    """The tokens of each answer."""
    kills: int
    spared: Sequence[Pod] = ()
    seed: int = 1
    wrong: list[Wrong] = field(default_factory=list)
    done: int = 0
    left: int = 0
    lost: int = 0
    """Answers that were begun again because a pod was gone."""
    killed: int = 0

    async def run(self) -> None:
        chance = random.Random(self.seed)
        queue = list(enumerate(self.asked))[::-1]
        clients = [asyncio.create_task(self._client(queue)) for _ in range(CLIENTS)]
        chaos = asyncio.create_task(self._chaos(chance))
        await asyncio.gather(*clients)
        chaos.cancel()
        await asyncio.gather(chaos, return_exceptions=True)

    async def _client(self, queue: list[tuple[int, Asked]]) -> None:
        async with httpx.AsyncClient(timeout=90) as http:
            while queue:
                if len(self.asked) - len(queue) > self._allowed():
                    await asyncio.sleep(0.05)
                    continue
                number, one = queue.pop()
                try:
                    async with asyncio.timeout(one.leaves_after):
                        got = await self._answer(http, number, one)
                except TimeoutError:
                    self.left += 1
                    continue
                self.done += 1
                if got != list(self.want[number]):
                    self.wrong.append(Wrong(one, got, list(self.want[number])))
                    print(f"other tokens: {self.wrong[-1]}")

    def _allowed(self) -> float:
        """Requests that may be begun: those behind each kill wait for it."""
        if self.killed == self.kills:
            return len(self.asked)
        return (self.killed + 0.75) / self.kills * len(self.asked)

    async def _answer(self, http: httpx.AsyncClient, number: int, one: Asked) -> list[int]:
        for turn in range(200):
            pod = self.fleet.decodes[(number + turn) % len(self.fleet.decodes)]
            tokens = await self._ask(http, pod, one)
            if tokens is not None:
                return tokens
            self.lost += 1
            await asyncio.sleep(0.2)
        raise AssertionError(f"nobody answered request {number}")

    async def _ask(self, http: httpx.AsyncClient, pod: DecodePod, one: Asked) -> list[int] | None:
        """The answer's tokens; None if another pod is to be asked."""
        url = f"http://127.0.0.1:{pod.port}/v1/completions"
        tokens: list[int] = []
        ended = False
        try:
            async with http.stream("POST", url, json=body(one.prompt, stream=True, **one.params)) as answer:
                if answer.status_code != 200:
                    told = json.loads(await answer.aread())["error"]
                    assert told["code"] in PASSING, told
                    return None
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        ended = True
                    elif line.startswith("data: "):
                        event = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            assert event["error"]["code"] in PASSING, event
                            return None
                    elif line.startswith("id: "):
                        ids = line.partition(":")[2].partition(":")[2].removesuffix(".")
                        tokens += [int(id) for id in ids.split(",") if id]
        except httpx.TransportError:
            return None
        return tokens if ended else None

    async def _chaos(self, chance: random.Random) -> None:
        """Kill a pod that is not spared, at even distances, and start it again; never two at once."""
        while self.killed < self.kills:
            if self.done + self.left < (self.killed + 0.5) / self.kills * len(self.asked):
                await asyncio.sleep(0.05)
                continue
            victim = chance.choice([pod for pod in self.fleet.pods if pod not in self.spared])
            if chance.random() < 0.7:
                victim.kill()
            else:
                victim.process.terminate()
                await asyncio.to_thread(victim.process.wait, 60)
            self.killed += 1
            victim.restart()
            await asyncio.to_thread(victim.await_ready)


@dataclass(frozen=True)
class Costs:
    """What the processes of a pod hold of the machine."""

    threads: int
    sockets: int
    files: int
    megabytes: float


def costs(pod: Pod) -> Costs:
    threads = sockets = files = 0
    memory = 0.0
    for pid in pod.processes():
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        threads += int(status["Threads"])
        memory += int(status["VmRSS"].split()[0]) / 1024
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = os.readlink(link)
            except OSError:
                continue
            sockets += found.startswith("socket:")
            files += 1
    return Costs(threads, sockets, files, memory)
