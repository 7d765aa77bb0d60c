"""A router in a process of its own, Redis, and simulated workers: what the tests of the router play on.

Redis and workers live on an event loop in a thread, so that tests can be plain code, with real clients. These
say `verify=False`: reading the certificates that nobody needs takes each new one 0.14 s of a core.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import uvloop
from tests.decode.served import await_true

from baton.state import EmbeddedRedis
from baton.testing.simulated import Peers, SimulatedSettings, SimulatedWorker, Timing, text_of, token_source
from baton.tiny import model_path
from baton.tokens import ChatTemplates, Tokenizer

T = TypeVar("T")

START_S = 60.0
VOCABULARY = 30000


class Router:
    """`python -m baton.router`. `log` grows while it runs; `operator` is the key that sees its pods."""

    def __init__(self, redis: str, *flags: str, operator: str = "") -> None:
        self.headers = {"authorization": f"Bearer {operator}"} if operator else {}
        command = [sys.executable, "-m", "baton.router", "--model.tokenizer", str(model_path())]
        command += ["--state.url", redis, "--http.host", "127.0.0.1", "--http.port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, Any]] = []
        self.words: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except json.JSONDecodeError:
                self.words.append(line)

    def said(self, message: str, **fields: Any) -> dict[str, Any] | None:
        return next(
            (line for line in self.log if line["message"] == message and fields.items() <= line.items()), None
        )

    @property
    def port(self) -> int:
        await_true(lambda: self.said("listening") is not None or self.process.poll() is not None, START_S)
        line = self.said("listening")
        assert line is not None, f"ended with {self.process.poll()}: {self.log} {self.words}"
        port: int = line["port"]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz", verify=False).status_code == 200

    def await_fleet(self, *ids: str) -> None:
        """Until it knows exactly these workers."""
        await_true(lambda: self.fleet() == set(ids), 10)

    def fleet(self) -> set[str]:
        workers = httpx.get(f"{self.url}/debug/fleet", headers=self.headers, verify=False).json()["workers"]
        return {one["id"] for one in workers}

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()


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


def eventually(fact: Callable[[], bool], seconds: float = 5.0) -> float:
    began = time.monotonic()
    await_true(fact, seconds)
    return time.monotonic() - began
