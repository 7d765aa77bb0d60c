"""A router in a process of its own, Redis, and simulated workers: what the tests of the router play on.

Redis and workers live on an event loop in a thread, so that tests can be plain code, with real clients. These
say `verify=False`: reading the certificates that nobody needs takes each new one 0.14 s of a core.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import uvloop
from tests.spawned import Spawned, await_true

from baton.state import EmbeddedRedis
from baton.testing.simulated import Peers, SimulatedSettings, SimulatedWorker, Timing, text_of, token_source
from baton.tiny import model_path
from baton.tokens import ChatTemplates, Tokenizer

T = TypeVar("T")

VOCABULARY = 30000


class Router(Spawned):
    """`python -m baton.router`. `operator` is the key that sees its pods."""

    def __init__(self, redis: str, *flags: str, operator: str = "") -> None:
        self.headers = {"authorization": f"Bearer {operator}"} if operator else {}
        words = ["--model.tokenizer", str(model_path()), "--state.url", redis]
        super().__init__("router", *words, "--http.host", "127.0.0.1", "--http.port", "0", *flags)

    def ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz", verify=False).status_code == 200

    def await_fleet(self, *ids: str) -> None:
        """Until it knows exactly these workers."""
        await_true(lambda: self.fleet() == set(ids), 10)

    def fleet(self) -> set[str]:
        return set(self.incarnations())

    def incarnations(self) -> dict[str, str]:
        """Of each worker that it knows."""
        workers = httpx.get(f"{self.url}/debug/fleet", headers=self.headers, verify=False).json()["workers"]
        return {one["id"]: one["incarnation"] for one in workers}


class Stage:
    def __init__(self) -> None:
        # As in production. Besides, asyncio's own loop leaks what it is accepting while a server closes.
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()
        self.peers = Peers()
        self.redis = EmbeddedRedis("--hz", "100")
        self.call(self.redis.start())

    def _play(self) -> None:
        self._loop.run_forever()
        # Here and not in `close`: uvloop waits without end for what a failed test has left half written.
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def worker(self, id: str, timing: Timing | None = None, **settings: Any) -> SimulatedWorker:
        fields: dict[str, Any] = {"heartbeat_s": 0.3, "expiry_s": 3.0, "vocabulary": VOCABULARY}
        fields |= {"state_url": self.redis.url, **settings}
        made = SimulatedSettings(id=id, timing=timing or Timing(), **fields)

        async def start() -> SimulatedWorker:
            return await SimulatedWorker(made, self.peers).__aenter__()

        return self.call(start())

    def leave(self, worker: SimulatedWorker) -> None:
        self.call(worker.__aexit__(None, None, None))

    def drain(self, worker: SimulatedWorker) -> None:
        async def drain() -> None:
            worker.drain()

        self.call(drain())

    def kill(self, worker: SimulatedWorker) -> None:
        self.call(worker.kill())

    @contextmanager
    def playing(self, router: Router, *ids: str, **settings: Any) -> Iterator[list[SimulatedWorker]]:
        """Workers that the router knows and nobody else."""
        workers = [self.worker(id, **settings) for id in ids]
        try:
            router.await_fleet(*ids)
            yield workers
        finally:
            for worker in workers:
                if worker.settings.id in self.peers.workers:
                    self.leave(worker)
            await_true(lambda: not router.fleet(), 10)

    def close(self) -> None:
        self.call(self.redis.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


TOKENIZER = Tokenizer.load(model_path())
TEMPLATES = ChatTemplates(TOKENIZER.templates, TOKENIZER.special_tokens)


def prompt_ids(text: str) -> list[int]:
    """Of a chat with one turn."""
    shown = TEMPLATES.render([{"role": "user", "content": text}])
    return TOKENIZER.encode(shown, add_special=False)


def expected(prompt: list[int], tokens: int, seed: int | None = None) -> str:
    """What a simulated worker answers."""
    return text_of(token_source(prompt, seed, VOCABULARY).first(tokens))
