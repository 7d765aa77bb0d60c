"""Pods that die at the worst moment: the client sees latency, and nothing is left on the others."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.faults.fleet import DecodePod, Fleet, PrefillPod, body, freeze, until
from tests.faults.prompts import texts, wanted
from tests.spawned import await_true

from baton.engine import LLM
from baton.protocol.pods import LAPSE_S

pytestmark = pytest.mark.timeout(300)

PATIENCE_S = 60.0
SOON_S = 2.0
"""How soon after a client or a pod is gone the others are clean."""


class Ask:
    """A completion that is streamed by a thread of its own."""

    def __init__(
        self, pod: DecodePod, prompt: str, max_tokens: int, heard: Callable[[int], None] = lambda events: None
    ) -> None:
        """`heard`: called by that thread with the number of events so far."""
        self.text = ""
        self.raw = ""
        self._heard = heard
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{pod.port}", timeout=60)
        self._thread = threading.Thread(target=self._read, args=(body(prompt, max_tokens, stream=True),))
        self._thread.start()

    def _read(self, asked: dict[str, object]) -> None:
        with self._client.stream("POST", "/v1/completions", json=asked) as answer:
            for line in answer.iter_lines():
                self.raw += line + "\n"
                if line.startswith("data: {"):
                    told = json.loads(line.removeprefix("data: "))
                    self.text += told["choices"][0]["text"] if told.get("choices") else ""
                    self._heard(self.raw.count("data: {"))

    def end(self, seconds: float) -> str:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        self._client.close()
        assert "data: [DONE]" in self.raw and '"error"' not in self.raw, self.raw[-500:]
        return self.text


def busy(fleet: Fleet) -> PrefillPod | None:
    return next((pod for pod in fleet.prefills if pod.metric("baton_legs_open")), None)


def await_busy(fleet: Fleet) -> PrefillPod:
    await_true(lambda: busy(fleet) is not None, 10)
    pod = busy(fleet)
    assert pod is not None
    return pod


def failures(pod: DecodePod) -> float:
    return pod.metric("baton_handoff_failures_total")


def test_a_prefill_pod_killed_before_it_computed_anything(fleet: Fleet, alone: LLM) -> None:
    (prompt,) = texts(1, 6000, seed=1)
    (want,) = wanted(alone, [prompt], 60)
    decode, stopped = fleet.decodes[0], [rank for pod in fleet.prefills for rank in pod.ranks]
    before = failures(decode)
    for rank in stopped:
        os.kill(rank, signal.SIGSTOP)
    ask = Ask(decode, prompt, 60)
    victim = await_busy(fleet)
    lost = victim.ranks
    victim.kill()
    for rank in stopped:
        if rank not in lost:
            os.kill(rank, signal.SIGCONT)
    assert ask.end(PATIENCE_S) == want
    assert failures(decode) == before + 1


def test_a_prefill_pod_killed_between_its_pushes(fleet: Fleet, alone: LLM) -> None:
    """Some chunks have been pushed, others have not been computed."""
    prompts = texts(3, 6000, seed=2)
    decode = fleet.decodes[0]
    before = failures(decode)
    for prompt, want in zip(prompts, wanted(alone, prompts, 60), strict=True):
        ask = Ask(decode, prompt, 60)
        victim = await_busy(fleet)
        time.sleep(0.1)
        victim.kill()
        assert ask.end(PATIENCE_S) == want
        if failures(decode) > before:
            return
        fleet.mend()
    raise AssertionError("none was killed in the middle")


def test_a_prefill_pod_killed_after_its_pushes(fleet: Fleet, alone: LLM) -> None:
    """All has landed and the answer is being written, when the decode pod's engine is held until its front
    has lost sight of the prefill pod."""
    (prompt,) = texts(1, 6000, seed=7)
    (want,) = wanted(alone, [prompt], 400)
    decode = fleet.decodes[0]
    before = failures(decode)
    (engine,), prefills = decode.ranks, [rank for pod in fleet.prefills for rank in pod.ranks]
    held = threading.Event()

    def hold(events: int) -> None:
        if events == 3:  # a token that was decoded: the pages are here, all of them
            os.kill(engine, signal.SIGSTOP)
            held.set()

    for rank in prefills:
        os.kill(rank, signal.SIGSTOP)
    ask = Ask(decode, prompt, 400, hold)
    victim = await_busy(fleet)
    for rank in prefills:
        os.kill(rank, signal.SIGCONT)
    assert held.wait(PATIENCE_S) and "[DONE]" not in ask.raw
    try:
        victim.kill()
        met = "baton_peer_path_ok"
        await_true(lambda: sum(name.startswith(met) for name in decode.metrics()) == 1, 20)
    finally:
        os.kill(engine, signal.SIGCONT)
    assert ask.end(PATIENCE_S) == want
    assert failures(decode) == before


def test_pages_of_a_killed_writer_are_free_soon(fleet: Fleet, alone: LLM) -> None:
    """Its leave to write lapses long before the time is up that it was given for the prompt (20 s, and 6)."""
    (prompt,) = texts(1, 6000, seed=8)
    (want,) = wanted(alone, [prompt], 4)
    decode, stopped = fleet.decodes[0], [rank for pod in fleet.prefills for rank in pod.ranks]
    before = failures(decode)
    for rank in stopped:
        os.kill(rank, signal.SIGSTOP)
    ask = Ask(decode, prompt, 4)
    victim = await_busy(fleet)
    lost = victim.ranks
    victim.kill()
    for rank in stopped:
        if rank not in lost:
            os.kill(rank, signal.SIGCONT)
    await_true(lambda: failures(decode) == before + 1, 10)
    await_true(lambda: not decode.held(), LAPSE_S + 10)
    assert ask.end(PATIENCE_S) == want


def test_a_killed_decode_pod_is_forgotten_by_its_prefill_pods(fleet: Fleet) -> None:
    victim, other = fleet.decodes
    prompts = texts(6, 8000, seed=2)
    clients = []
    for prompt in prompts:
        client = threading.Thread(target=_ignore, args=(victim, prompt))
        client.start()
        clients.append(client)
    await_true(lambda: sum(pod.metric("baton_legs_open") for pod in fleet.prefills) >= 2, 20)
    victim.kill()
    forgotten = lambda pod: not pod.held() and pod.metric("baton_decode_workers") == 1  # noqa: E731
    assert until(lambda: all(map(forgotten, fleet.prefills)), 10) < SOON_S
    for client in clients:
        client.join(10)
    assert other.complete(prompts[0], 4)


def _ignore(pod: DecodePod, prompt: str) -> None:
    try:
        httpx.post(f"http://127.0.0.1:{pod.port}/v1/completions", json=body(prompt, 50), timeout=60)
    except httpx.HTTPError:
        return


def test_both_pods_are_clean_soon_after_a_client_left(fleet: Fleet) -> None:
    decode = fleet.decodes[1]
    chance = random.Random(3)
    for prompt in texts(6, 6000, seed=3):
        content = json.dumps(body(prompt, 1000)).encode()
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(content)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", decode.port)) as client:
            client.sendall(head.encode() + content)
            await_true(lambda: bool(decode.held()), 10)
            time.sleep(chance.random() * 0.8)
            assert decode.held(), "it was over before anything was tested"
        assert fleet.await_clean(10) < SOON_S


def test_a_draining_prefill_pod_ends_its_pushes_before_it_exits(fleet: Fleet, alone: LLM) -> None:
    (prompt,) = texts(1, 6000, seed=4)
    (want,) = wanted(alone, [prompt], 40)
    decode = fleet.decodes[0]
    before = failures(decode)
    ask = Ask(decode, prompt, 40)
    leaving = await_busy(fleet)
    leaving.process.terminate()
    assert ask.end(PATIENCE_S) == want
    assert leaving.process.wait(20) == 0
    assert failures(decode) == before


def test_an_old_incarnation_that_wakes_up_changes_nothing(fleet: Fleet, alone: LLM) -> None:
    """Its front dies, its rank is frozen in the middle of a push and goes on when others have its pages."""
    prompts = texts(9, 5000, seed=5)
    want = wanted(alone, prompts, 30)
    decode = fleet.decodes[0]
    ask = Ask(decode, prompts[0], 30)
    old = await_busy(fleet)
    (zombie,) = old.ranks
    freeze(zombie)
    os.kill(old.process.pid, signal.SIGKILL)
    old.process.wait(10)
    first = ask.end(PATIENCE_S)
    await_true(lambda: not decode.held(), LAPSE_S + 10)
    asks = [Ask(decode, prompt, 30) for prompt in prompts[1:]]
    os.kill(zombie, signal.SIGCONT)
    assert [first, *(one.end(PATIENCE_S) for one in asks)] == want
    until(lambda: not Path(f"/proc/{zombie}").exists(), SOON_S)
