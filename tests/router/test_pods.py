"""A router over real pods, two that prefill and two that decode: it answers what one engine alone says."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.router.stage import Router, Stage
from tests.spawned import await_true

import openai
from baton.engine import LLM, SamplingParams
from baton.tiny import model_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPTS = [
    f"{number}: What does a prefill pod hand over, and to whom? " * (1 + number % 4) for number in range(6)
]
TOKENS = 60
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": TOKENS, "extra_body": {"ignore_eos": True}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pods:
    def __init__(self, redis: str) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        probes = []
        for number in range(2):
            for role in ("prefill", "decode"):
                port = free_port()
                words = [
                    "--engine.model",
                    str(model_path()),
                    "--engine.pages",
                    "512",
                    "--engine.threads",
                    "1",
                ]
                words += ["--http.host", "127.0.0.1", "--http.port", str(port), "--state.url", redis]
                words += ["--pod.id", f"{role}-{number}"]
                if role == "prefill":
                    words += ["--listen", f"tcp://127.0.0.1:{free_port()}"]
                else:
                    words += ["--role", "decode", "--names", "tiny", "--handoff.local_below", "8"]
                self.processes[f"{role}-{number}"] = subprocess.Popen(
                    [sys.executable, "-m", f"baton.{role}", *words], stderr=subprocess.DEVNULL
                )
                probes.append(port)
        for port in probes:
            await_true(lambda port=port: _ready(port), 200)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def said() -> list[str]:
    with LLM(str(model_path()), pages=512, threads=1) as llm:
        params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        return [output.text for output in llm.generate(PROMPTS, params)]


@pytest.fixture(scope="module")
def pods(stage: Stage) -> Iterator[Pods]:
    made = Pods(stage.redis.url)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(stage: Stage, pods: Pods) -> Iterator[openai.OpenAI]:
    router = Router(stage.redis.url)
    router.await_fleet(*pods.processes)
    await_true(router.ready, 10)
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client
    router.close()


def streamed(client: openai.OpenAI, prompt: str) -> str:
    chunks = client.completions.create(model="tiny", prompt=prompt, stream=True, **GREEDY)
    return "".join([chunk.choices[0].text for chunk in chunks])


def test_answers_are_those_of_one_engine(client: openai.OpenAI, said: list[str]) -> None:
    made = client.completions.create(model="tiny", prompt=PROMPTS, **GREEDY)
    assert [choice.text for choice in made.choices] == said
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lambda prompt: streamed(client, prompt), PROMPTS)) == said
    again = client.completions.create(model="tiny", prompt=PROMPTS[3], **GREEDY)
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens, "the router found who held it"


@pytest.mark.parametrize("victim", ["decode-0", "prefill-0"])
def test_a_killed_pod_is_not_noticed(client: openai.OpenAI, pods: Pods, said: list[str], victim: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(streamed, client, prompt) for prompt in PROMPTS]
        streams = client.completions.create(model="tiny", prompt=PROMPTS[0], stream=True, **GREEDY)
        first = next(iter(streams)).choices[0].text
        pods.kill(victim)
        assert first + "".join([chunk.choices[0].text for chunk in streams]) == said[0]
        assert [one.result() for one in asked] == said
