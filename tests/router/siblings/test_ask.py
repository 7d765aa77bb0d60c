"""Several processes behind one port are one router to whoever looks: any of them shows what all have done."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.router.stage import Router, Stage
from tests.router.test_workers import children
from tests.spawned import eventually

from baton.testing.simulated import Timing

SECONDS = 60.0
"""For whatever must come: a loaded machine takes its time."""
LONG = {"prompt": [1, 2], "max_tokens": 3000, "stream": True}


class Behind:
    """A router of three processes, each of which can be asked."""

    def __init__(self, stage: Stage) -> None:
        self.router = Router(stage.redis.url, "--workers", "3")
        self._stack = ExitStack()
        self.listening(3)
        eventually(lambda: all(self.router.ready() for _ in range(12)), SECONDS)
        self._feed = children(self.router.process.pid)[3]

    def listening(self, count: int) -> None:
        eventually(lambda: [one["message"] for one in self.router.log].count("listening") >= count, SECONDS)

    @property
    def processes(self) -> list[int]:
        """Those that serve: the one that feeds them prefix events does not."""
        return [pid for pid in children(self.router.process.pid) if pid != self._feed]

    def client(self, pid: int, others: Sequence[int]) -> httpx.Client:
        """With one connection, to that process: nobody else could take it."""
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        made = httpx.Client(base_url=self.router.url, verify=False, timeout=SECONDS, limits=one)
        self._stack.callback(made.close)
        with stopped(others):
            assert made.get("/livez").status_code == 200
        return made

    def clients(self) -> list[httpx.Client]:
        """Of each process, in the order of their numbers."""
        pids = self.processes
        return [self.client(pid, [other for other in pids if other != pid]) for pid in pids]

    def close(self) -> None:
        self.router.close()  # first: it ends the streams that are read
        self._stack.close()


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            eventually(lambda pid=pid: stat(pid) == "T", SECONDS)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def stat(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def ports(pid: int) -> set[int]:
    """That it listens on."""
    sockets = {
        os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.exists() or one.is_symlink()
    }
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    listening = [line for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]
    return {int(line[1].rpartition(":")[2], 16) for line in listening}


class Watch:
    """A page that is open at one process."""

    def __init__(self, client: httpx.Client) -> None:
        self.events: list[tuple[str, Any]] = []
        self._client = client
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: self.of("hello") != [], SECONDS)

    def _read(self) -> None:
        name = ""
        try:
            with self._client.stream("GET", "/ui/feed") as answer:
                for line in answer.iter_lines():
                    if line.startswith("event: "):
                        name = line[7:]
                    elif line.startswith("data: "):
                        self.events.append((name, json.loads(line[6:])))
        except httpx.HTTPError:
            pass  # the router is gone: the test is over

    def of(self, kind: str) -> list[Any]:
        return [told for name, told in list(self.events) if name == kind]

    @property
    def timed(self) -> set[str]:
        """Requests whose first bytes have come."""
        shown = [one for hello in self.of("hello") for one in hello["placements"]]
        shown += [*self.of("placement"), *self.of("ended")]
        return {one["id"].rpartition(".")[0] for one in shown if one["ttft_ms"] is not None}

    @property
    def running(self) -> int:
        told: int = self.of("snapshot")[-1]["router"]["running"] if self.of("snapshot") else -1
        return told

    @property
    def placed(self) -> Counter[str]:
        shown = [one for hello in self.of("hello") for one in hello["placements"]]
        return Counter(one["id"].rpartition(".")[0] for one in [*shown, *self.of("placement")])


@pytest.fixture(scope="module")
def behind(stage: Stage) -> Iterator[Behind]:
    workers = [stage.worker(id, Timing(step_s=0.05), expiry_s=30.0) for id in ("w1", "w2")]
    made = Behind(stage)
    try:
        yield made
    finally:
        made.close()
        for worker in workers:
            stage.leave(worker)


def ask(client: httpx.Client, count: int) -> list[str]:
    """Request ids."""
    body = {"prompt": [1, 2], "max_tokens": 2, "stream": True}
    answers = [client.post("/v1/completions", json=body) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.headers["x-request-id"] for answer in answers]


def told_by_all(client: httpx.Client, path: str) -> dict[str, Any]:
    """Once every process was heard in time."""
    found: list[dict[str, Any]] = []

    def heard() -> bool:
        found.append(client.get(path).json())
        return found[-1]["unheard"] == []

    eventually(heard, SECONDS)
    return found[-1]


def decided(client: httpx.Client) -> list[dict[str, Any]]:
    placements: list[dict[str, Any]] = told_by_all(client, "/debug/placements")["placements"]
    return placements


@pytest.mark.timeout(300)
def test_any_process_shows_what_all_have_placed_and_each_once(behind: Behind) -> None:
    clients = behind.clients()
    before = [request for client in clients for request in ask(client, 2)]
    watches = [Watch(client) for client in behind.clients()]
    with ThreadPoolExecutor(3) as threads:
        asked = list(threads.map(lambda client: ask(client, 20), clients))
    every = Counter([*before, *(request for several in asked for request in several)])
    assert len(every) == 66
    for client in clients:
        placements = decided(client)
        assert Counter(one["request"] for one in placements) == every
        assert Counter(one["process"] for one in placements) == {0: 22, 1: 22, 2: 22}
        assert {one["request"] for one in placements[-6:]} == set(before), "the newest first"
    for watch in watches:
        eventually(lambda watch=watch: watch.placed == every, SECONDS)
        eventually(lambda watch=watch: watch.timed == set(every), SECONDS)


@pytest.mark.timeout(300)
def test_what_is_under_way_is_counted_over_all(behind: Behind) -> None:
    asking, looking = behind.clients(), behind.clients()
    watches = [Watch(client) for client in behind.clients()]
    with ExitStack() as streams:
        for client in asking:
            streams.enter_context(client.stream("POST", "/v1/completions", json=LONG))
        for client in looking:
            told = told_by_all(client, "/debug/fleet")
            assert (told["running"], told["waiting"]) == (3, 0)
        for watch in watches:
            eventually(lambda watch=watch: watch.running == 3, SECONDS)
    for watch in watches:
        eventually(lambda watch=watch: watch.running == 0, SECONDS)


@pytest.mark.timeout(300)
def test_a_page_goes_on_when_another_process_is_killed_and_comes_again(behind: Behind) -> None:
    first, second, third = behind.processes
    kept = behind.client(first, [second, third])
    watch = Watch(behind.client(first, [second, third]))
    lost = ask(behind.client(third, [first, second]), 3)
    eventually(lambda: watch.placed.keys() >= set(lost), SECONDS)
    os.kill(third, signal.SIGKILL)
    meanwhile = ask(kept, 3)
    eventually(lambda: watch.placed.keys() >= set(meanwhile), SECONDS)
    snapshots = len(watch.of("snapshot"))
    eventually(lambda: len(watch.of("snapshot")) > snapshots, SECONDS)
    behind.listening(4)
    (fresh,) = set(behind.processes) - {first, second}
    again = ask(behind.client(fresh, [first, second]), 3)
    eventually(lambda: watch.placed.keys() >= set(again), SECONDS)
    assert set(watch.placed.values()) == {1} and len(watch.of("hello")) == 1
    known = {one["request"] for one in decided(kept)}
    assert known >= {*meanwhile, *again} and not known & set(lost), "what a process knew goes with it"


@pytest.mark.timeout(300)
def test_nothing_waits_for_a_process_that_is_stopped(behind: Behind) -> None:
    first, second, third = behind.processes
    kept, slow = behind.client(first, [second, third]), behind.client(second, [first, third])
    ask(kept, 1)
    watch = Watch(behind.client(first, [second, third]))
    with slow.stream("POST", "/v1/completions", json=LONG):
        eventually(lambda: watch.running == 1, SECONDS)
        with stopped([second]):
            told = kept.get("/debug/placements").json()
            assert len(told["unheard"]) == 1 and told["placements"]
            eventually(lambda: watch.running == 0, SECONDS)  # nobody knows any more
            asked = ask(kept, 2)
            eventually(lambda: watch.placed.keys() >= set(asked), SECONDS)
        eventually(lambda: watch.running == 1, SECONDS)
    asked += ask(behind.client(second, [first, third]), 2)
    eventually(lambda: watch.placed.keys() >= set(asked), SECONDS)
    assert set(watch.placed.values()) == {1} and len(watch.of("hello")) == 1


def test_siblings_are_told_and_nobody_else(behind: Behind) -> None:
    """Their ports are on the loopback, where others may be."""
    asked = 0
    for port in ports(behind.processes[0]) - {behind.router.port}:
        for path in ("/placements", "/state", "/news", "/metrics"):
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}{path}", verify=False, timeout=SECONDS)
            except httpx.RemoteProtocolError:
                continue  # what feeds them prefix events speaks no HTTP
            assert answer.status_code == 401, path
            asked += 1
    assert asked == 4 * 3
