"""Prefill pods as processes of their own: how they join, die, return and leave while a decode pod serves.

The decode pod's clients see none of it: every answer is the one that the decode pod gives by itself.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import msgspec
from tests.decode.served import Pod
from tests.spawned import START_S, await_true, samples

from baton.state import EmbeddedRedis, FleetMirror, Link, StateSettings, WorkerLease
from baton.tokens.identity import page_identities, root_salt

SOON_S = 30.0
"""A busy machine may take so long for what takes no time."""
LONG = ("--engine.prefill_budget", "64", "--engine.max_running", "16")


@contextmanager
def redis() -> Iterator[tuple[EmbeddedRedis, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        server = EmbeddedRedis()
        runner.run(server.start())
        try:
            yield server, runner
        finally:
            runner.run(server.stop())


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(300, 1500) for _ in range(length)] for _ in range(count)]


class Client:
    """Asks a decode pod, many at a time."""

    def __init__(self, pod: Pod) -> None:
        self.http = httpx.Client(base_url=pod.url, timeout=90)
        self._threads = ThreadPoolExecutor(16)

    def ask(self, made: Sequence[list[int]], **body: Any) -> list[Future[str]]:
        return [self._threads.submit(self._one, prompt, body) for prompt in made]

    def _one(self, prompt: list[int], body: dict[str, Any]) -> str:
        asked = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True, **body}
        answer = self.http.post("/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    def texts(self, made: Sequence[list[int]], **body: Any) -> list[str]:
        return [one.result(90) for one in self.ask(made, **body)]

    def figure(self, start: str) -> float:
        """Sum of the metrics that begin so."""
        told = samples(self.http.get("/metrics").text)
        return sum(value for name, value in told.items() if name.startswith(start))

    def handed(self) -> float:
        return self.figure("baton_handoff_bytes_total")

    def close(self) -> None:
        self._threads.shutdown()
        self.http.close()


def lease_of(pod: Pod) -> WorkerLease:
    answer = httpx.get(f"{pod.url}/lease")
    assert answer.status_code == 200
    return msgspec.json.decode(answer.content, type=WorkerLease)


def handing_over(client: Client, pod: str) -> bool:
    return client.figure(f"baton_peer_bandwidth_bytes_per_second{{direction=write,peer={pod}/0") > 0


async def _sees(url: str, identities: Sequence[bytes], holders: set[str]) -> None:
    """A router that begins now finds these pods to hold all of these pages."""
    async with Link(StateSettings(url=url)) as link, FleetMirror(link, "r1") as mirror, asyncio.timeout(10):
        while {
            pod for pod, held in mirror.index.lookup(identities).items() if held == len(identities)
        } != holders:
            await asyncio.sleep(0.02)


async def _members(url: str) -> set[str]:
    async with Link(StateSettings(url=url)) as link:
        return {name.decode() for name in await link.ask("SMEMBERS", link.keys.workers)}


def test_a_pod_that_is_killed_returns_under_its_name_and_then_leaves_in_order() -> None:
    with redis() as (server, runner), ExitStack() as stack:
        legs = f"tcp://127.0.0.1:{free_port()}"
        state = ("--state.url", server.url)
        flags = (*LONG, *state, "--pod.id", "p-0", "--listen", legs)
        first = Pod(*flags, service="prefill")
        stack.callback(first.close)
        decode = Pod(*state, "--pod.id", "d-0", "--role", "decode", "--handoff.local_below", "16")
        stack.callback(decode.close)
        assert httpx.get(f"{decode.url}/lease").status_code == 503, "no lease before it is ready"
        decode.await_line("ready")
        first.await_line("ready")
        client = Client(decode)
        stack.callback(client.close)
        await_true(lambda: handing_over(client, "p-0"), SOON_S)

        _joined(client, server, runner, first, decode)
        made = prompts(8, 700, seed=2)
        asked = client.ask(made)
        await_true(lambda: client.figure("baton_handoff_inflight") > 2, SOON_S)
        first.process.send_signal(signal.SIGKILL)
        texts = [one.result(90) for one in asked]
        assert client.figure("baton_handoff_failures_total") > 0, "it was killed too late for this test"

        second = Pod(*flags, service="prefill")
        stack.callback(second.close)
        second.await_line("ready")
        before = client.handed()
        await_true(lambda: handing_over(client, "p-0"), SOON_S)
        assert texts[:4] == client.texts(made[:4], cache_salt="computed anew, by the new one")
        await_true(lambda: client.handed() > before, SOON_S)

        _leaves(client, second, seed=3)
        await_true(lambda: runner.run(_members(server.url)) == {"d-0"}, SOON_S)
        assert texts[:3] == client.texts(made[:3], cache_salt="computed anew, by the decode pod alone")
        decode.terminate()
        assert decode.wait(30) == 0
        assert runner.run(_members(server.url)) == set()


def _joined(client: Client, server: EmbeddedRedis, runner: asyncio.Runner, prefill: Pod, decode: Pod) -> None:
    """Both tell who they are, and a router sees who holds what was served."""
    leases = [lease_of(prefill), lease_of(decode)]
    assert [(one.id, one.role) for one in leases] == [("p-0", "prefill"), ("d-0", "decode")]
    assert leases[0].http == prefill.url and leases[1].bandwidths.keys() == {"p-0"}
    assert leases[0].layout_fingerprint == leases[1].layout_fingerprint
    (prompt,) = prompts(1, 320, seed=1)
    client.texts([prompt])
    await_true(lambda: client.handed() > 0, SOON_S)  # told when the prefill pod says how long it took
    salt = root_salt(leases[0].model_fingerprint)
    runner.run(_sees(server.url, page_identities(prompt, leases[0].page_size, salt), {"p-0", "d-0"}))
    for pod in (prefill, decode):
        ranks = [line for line in pod.log if line.get("rank") == 0]
        assert ranks and all(line["service"] in ("prefill", "decode") for line in ranks), "ranks log likewise"


def cut_off(client: Client) -> float:
    """Attempts that failed once they were under way: an ask that crosses the word of draining is refused."""
    every = client.figure("baton_handoff_failures_total")
    return every - client.figure('baton_handoff_failures_total{reason="refused"}')


def _leaves(client: Client, prefill: Pod, seed: int) -> None:
    """SIGTERM: what it was asked for is finished and pushed, what comes later goes elsewhere."""
    failures = cut_off(client)
    asked = client.ask(prompts(6, 1500, seed))
    with httpx.Client(base_url=prefill.url) as probe:
        await_true(lambda: probe.get("/readyz").json()["legs"] > 2, SOON_S)
    prefill.terminate()
    await_true(lambda: prefill.said("draining") is not None, SOON_S)
    open_legs = prefill.said("draining")["legs"]  # type: ignore[index]
    assert open_legs > 0
    ready = httpx.get(f"{prefill.url}/readyz")
    assert (ready.status_code, ready.json()["message"]) == (503, "draining")
    assert lease_of(prefill).draining
    late = client.ask(prompts(3, 100, seed + 1))
    for one in (*asked, *late):
        one.result(90)
    assert prefill.wait(30) == 0
    assert prefill.said("stopped") is not None
    assert cut_off(client) == failures, "a leg that was under way was cut off"


def test_a_drain_that_takes_too_long_is_cut_off_and_the_decode_pod_goes_on() -> None:
    with ExitStack() as stack:
        legs = f"tcp://127.0.0.1:{free_port()}"
        prefill = Pod(*LONG, "--listen", legs, "--drain_s", "0.2", service="prefill")
        stack.callback(prefill.close)
        decode = Pod("--role", "decode", "--handoff.prefill", legs)
        stack.callback(decode.close)
        prefill.await_line("ready", START_S)
        decode.await_line("ready", START_S)
        client = Client(decode)
        stack.callback(client.close)
        await_true(lambda: client.figure("baton_peer_bandwidth_bytes_per_second") > 0, SOON_S)
        made = prompts(6, 1500, seed=5)
        asked = client.ask(made)
        await_true(lambda: client.figure("baton_handoff_inflight") > 3, SOON_S)
        began = time.monotonic()
        prefill.terminate()
        assert prefill.wait(25) == 0
        assert time.monotonic() - began < 20
        # It said that they have ended, so nobody has to wait until they cannot write any more.
        await_true(lambda: client.figure("baton_handoff_inflight") == 0, 5)
        assert client.figure("baton_fenced_pages") == 0
        texts = [one.result(90) for one in asked]
        assert client.figure("baton_handoff_failures_total") > 0, "nothing was left to cut off"
        assert texts[:2] == client.texts(made[:2], cache_salt="computed anew")
