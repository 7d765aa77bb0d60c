"""Several processes behind one port: they share the work, are replaced when they die, and end together."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.router.stage import Router, Stage
from tests.spawned import eventually, samples

from baton.router.exposed import merged


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_processes_share_a_port_and_one_may_die(stage: Stage) -> None:
    worker = stage.worker("w1")
    router = Router(stage.redis.url, "--workers", "2")

    def listening() -> int:
        return [line["message"] for line in router.log].count("listening")

    def ask(number: int) -> int:
        body = {"prompt": [1, 2], "max_tokens": 2}
        return httpx.post(f"{router.url}/v1/completions", json=body, timeout=20).status_code

    def done() -> dict[str, float]:
        told = samples(httpx.get(f"{router.url}/metrics").text)
        outcome = "endpoint=completion,outcome=completed,process="
        return {one: told.get(f"baton_router_requests_total{{{outcome}{one}}}", 0.0) for one in ("0", "1")}

    try:
        eventually(lambda: listening() == 2, 30)
        eventually(lambda: all(router.ready() for _ in range(12)), 10)  # whichever is asked
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(ask, range(60))) == {200}
        assert sum(done().values()) == 60 and min(done().values()) > 0
        os.kill(children(router.process.pid)[0], signal.SIGKILL)
        eventually(lambda: listening() == 3, 30)
        assert ask(0) == 200
        router.process.send_signal(signal.SIGTERM)
        assert router.wait(20) == 0
    finally:
        router.close()
        stage.leave(worker)


def test_texts_of_several_processes_make_one() -> None:
    one = '# HELP a_total Things.\n# TYPE a_total counter\na_total{x="1"} 2.0\n'
    one += "# HELP b Now.\n# TYPE b gauge\nb 1.0\n"
    told = merged({"0": one, "1": one.replace("2.0", "3.0")}).decode()
    assert told.splitlines() == [
        "# HELP a_total Things.",
        "# TYPE a_total counter",
        'a_total{process="0",x="1"} 2.0',
        'a_total{process="1",x="1"} 3.0',
        "# HELP b Now.",
        "# TYPE b gauge",
        'b{process="0"} 1.0',
        'b{process="1"} 1.0',
    ]


@pytest.mark.timeout(300)
def test_one_feed_tells_all_processes_who_holds_what_and_may_die(stage: Stage) -> None:
    worker = stage.worker("w1")
    router = Router(stage.redis.url, "--workers", "2")

    def ask(number: int, pages: int) -> None:
        prompt = [number] * 16 * pages
        body = {"prompt": prompt, "max_tokens": 1}
        assert httpx.post(f"{router.url}/v1/completions", json=body, timeout=40).status_code == 200

    def indexed() -> list[float]:
        told = samples(httpx.get(f"{router.url}/metrics").text)
        return [told.get(f"baton_router_index_pages{{process={one}}}", -1.0) for one in ("0", "1")]

    try:
        eventually(lambda: [line["message"] for line in router.log].count("listening") == 2, 60)
        eventually(lambda: all(router.ready() for _ in range(3)), 40)
        ask(2, 5)
        eventually(lambda: indexed() == [5.0, 5.0], 40)
        *_, feed = children(router.process.pid)
        os.kill(feed, signal.SIGKILL)
        eventually(lambda: router.said("a process ended", number=2) is not None, 40)
        assert indexed() == [5.0, 5.0]
        ask(3, 4)
        eventually(lambda: indexed() == [9.0, 9.0], 40)
        eventually(lambda: router.said("the index feed is lost and sought again") is not None, 40)
        router.process.send_signal(signal.SIGTERM)
        assert router.wait(40) == 0
    finally:
        router.close()
        stage.leave(worker)
