"""Redis killed, stopped and flushed under a router that serves: no request notices."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.router.stage import Router, Stage
from tests.spawned import eventually

BODY: dict[str, Any] = {"prompt": list(range(1, 200)), "max_tokens": 4, "temperature": 0}


@pytest.fixture
def alone() -> Iterator[Stage]:
    """A Redis that nobody else uses."""
    made = Stage()
    yield made
    made.close()


@contextmanager
def asking(url: str) -> Iterator[list[int]]:
    """Somebody asks all the time; the answers' statuses."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=20) as http:
            while not stop.is_set():
                statuses.append(http.post("/v1/completions", json=BODY).status_code)
                time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join(20)
    assert set(statuses) == {200}


def test_no_request_fails_for_redis(alone: Stage) -> None:
    router = Router(alone.redis.url)
    try:
        with alone.playing(router, "w1", "w2"), asking(router.url) as statuses:

            def state() -> Any:
                return httpx.get(f"{router.url}/readyz").json()["state"]["reachable"]

            def indexed() -> int:
                workers = httpx.get(f"{router.url}/debug/fleet").json()["workers"]
                return sum(one["pages_indexed"] for one in workers)

            eventually(lambda: len(statuses) > 10 and indexed() > 0)
            alone.call(alone.redis.kill())
            eventually(lambda: not state())
            time.sleep(1.5)  # longer than leases last
            assert router.ready() and router.fleet() == {"w1", "w2"}
            alone.call(alone.redis.start())
            eventually(state)

            os.kill(alone.redis.pid, signal.SIGSTOP)
            eventually(lambda: not state())
            assert router.ready()
            os.kill(alone.redis.pid, signal.SIGCONT)
            eventually(state)

            alone.call(flush(alone))
            time.sleep(1.5)
            assert router.fleet() == {"w1", "w2"}
            eventually(lambda: indexed() > 0)
            answered = len(statuses)
            eventually(lambda: len(statuses) > answered + 5)
    finally:
        router.close()


async def flush(stage: Stage) -> None:
    from baton.state import Link, StateSettings

    async with Link(StateSettings(url=stage.redis.url)) as link:
        await link.ask("FLUSHALL")


def test_several_routers_share_what_they_have_under_way(stage: Stage, router: Router) -> None:
    second = Router(stage.redis.url)
    try:
        with stage.playing(router, "w1", "w2") as workers:
            second.await_fleet("w1", "w2")
            workers[0].faults.silent = workers[1].faults.silent = True

            def told() -> dict[str, int]:
                fleet = httpx.get(f"{second.url}/debug/fleet").json()
                return {one["id"]: one["requests"] for one in fleet["workers"]}

            threads = [
                threading.Thread(target=_give_up, args=(router.url, number), daemon=True)
                for number in range(6)
            ]
            for thread in threads:
                thread.start()
            eventually(lambda: sum(told().values()) == 6)
            assert max(told().values()) <= 4, "they were spread"
            for thread in threads:
                thread.join(10)
            eventually(lambda: sum(told().values()) == 0)
    finally:
        second.close()


def _give_up(url: str, number: int) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/completions", json={"prompt": [number], "max_tokens": 2}, timeout=2)
