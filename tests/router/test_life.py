"""A router's process: what it refuses to start with, how it says that it is ready, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.router.stage import Router, Stage, expected
from tests.spawned import eventually, samples

import openai
from baton.router.__main__ import main
from baton.testing.simulated import SimulatedWorker, Timing
from baton.tiny import model_path


def test_wrong_settings_end_it_with_status_2(tmp_path: Path, stage: Stage, capsys: Any) -> None:
    model = ["--model.tokenizer", str(model_path())]
    assert main([]) == 2 and "model.tokenizer" in capsys.readouterr().err
    assert main([*model, "--placement.policy", "best"]) == 2
    assert "placement.policy" in capsys.readouterr().err
    (tmp_path / "keys").write_text("alice\n")
    flags = [
        *model,
        "--state.url",
        stage.redis.url,
        "--http.port",
        "0",
        "--keys.file",
        str(tmp_path / "keys"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "baton.router", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2 and "line 1" in done.stderr


def test_sigterm_finishes_what_is_open_and_takes_nothing_new(stage: Stage) -> None:
    router = Router(stage.redis.url, "--http.keep_alive_s", "5")
    try:
        with (
            stage.playing(router, "w1", timing=Timing(step_s=0.03)),
            httpx.Client(base_url=router.url) as kept,
        ):
            assert kept.get("/readyz").status_code == 200
            body: dict[str, Any] = {"prompt": [5], "max_tokens": 60, "stream": True, "temperature": 0}
            with httpx.stream("POST", f"{router.url}/v1/completions", json=body, timeout=20) as answer:
                lines = answer.iter_lines()
                next(lines)
                router.process.send_signal(signal.SIGTERM)
                eventually(lambda: router.said("draining") is not None)
                assert kept.get("/readyz").json()["reason"] == "draining"
                refused = kept.post("/v1/completions", json={"prompt": [5], "max_tokens": 1})
                assert (refused.status_code, refused.headers["x-baton-reason"]) == (503, "draining")
                data = [line[6:] for line in lines if line.startswith("data: ")]
            assert data.pop() == "[DONE]"
            assert "".join(json.loads(one)["choices"][0]["text"] for one in data) in expected([5], 60)
            assert router.wait(10) == 0
            stage.leave(stage.peers.workers["w1"])
            router.fleet = lambda: set()  # type: ignore[method-assign]
    finally:
        router.close()


def test_kept_connections_are_let_go_so_that_nobody_is_refused_on_one(stage: Stage) -> None:
    """A client that pauses between requests learns by its connection's end that it must ask elsewhere."""
    router = Router(stage.redis.url)
    try:
        with stage.playing(router, "w1", timing=Timing(step_s=0.03)):
            at = urlsplit(router.url)
            assert at.hostname and at.port
            body = json.dumps({"prompt": [5], "max_tokens": 60, "stream": True, "temperature": 0})
            with (
                closing(HTTPConnection(at.hostname, at.port, timeout=20)) as idle,
                closing(HTTPConnection(at.hostname, at.port, timeout=20)) as busy,
            ):
                idle.request("GET", "/readyz")
                idle.getresponse().read()
                busy.request("POST", "/v1/completions", body, {"content-type": "application/json"})
                answer = busy.getresponse()
                answer.readline()
                router.process.send_signal(signal.SIGTERM)
                assert idle.sock.recv(1) == b""
                assert httpx.get(f"{router.url}/readyz").json()["reason"] == "draining", "long before the end"
                assert answer.read().endswith(b"data: [DONE]\n\n")
                assert busy.sock is None or busy.sock.recv(1) == b"", "and this one behind its answer"
            assert router.wait(10) == 0
            stage.leave(stage.peers.workers["w1"])
            router.fleet = lambda: set()  # type: ignore[method-assign]
    finally:
        router.close()


def test_what_does_not_end_in_time_is_told_so(stage: Stage) -> None:
    router = Router(stage.redis.url, "--limits.drain_s", "0.5")
    worker = stage.worker("w1", Timing(step_s=0.03))
    try:
        router.await_fleet("w1")
        body: dict[str, Any] = {"prompt": [5], "max_tokens": 3000, "stream": True}
        with httpx.stream("POST", f"{router.url}/v1/completions", json=body, timeout=20) as answer:
            lines = answer.iter_lines()
            next(lines)
            router.process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        assert json.loads(last[6:])["error"]["code"] == "draining"
        assert router.wait(10) == 0
    finally:
        router.close()
        stage.leave(worker)


def test_metrics_tell_what_happened(
    router: Router, http: httpx.Client, workers: list[SimulatedWorker]
) -> None:
    before = samples(http.get("/metrics").text)
    body = {"prompt": [1, 2, 3], "max_tokens": 5}
    http.post("/v1/completions", json=body)
    http.post("/v1/completions", json={**body, "stream": True})
    http.post("/v1/completions", json={**body, "n": 1000})
    after = samples(http.get("/metrics").text)

    def grew(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert grew("baton_router_requests_total{endpoint=completion,outcome=completed}") == 2
    assert grew("baton_router_requests_total{endpoint=completion,outcome=rejected}") == 1
    assert grew("baton_router_tokens_total{kind=prompt}") == 6
    assert grew("baton_router_tokens_total{kind=generated}") == 10
    assert grew("baton_router_ttft_seconds_count") == 1
    assert grew("baton_router_itl_seconds_count") <= 5
    assert grew("baton_router_placements_total{policy=cost,where=local}") == 2
    assert after["baton_router_workers{role=unified}"] == 2 and after["baton_router_running"] == 0
    assert after["vllm:num_requests_running{model_name=tiny}"] == 0


def test_a_hundred_megabytes_are_refused_before_they_are_sent(
    router: Router, workers: list[SimulatedWorker]
) -> None:
    def pieces() -> Any:
        for _ in range(100):
            yield b" " * (1 << 20)

    with httpx.Client(base_url=router.url, timeout=30) as http:
        try:
            answer = http.post(
                "/v1/completions", content=pieces(), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 413
        except httpx.TransportError:
            pass  # the router closed while we were still sending
        assert http.post("/v1/completions", json={"prompt": [1], "max_tokens": 1}).status_code == 200


def test_long_prompts_do_not_hold_up_short_ones(router: Router, workers: list[SimulatedWorker]) -> None:
    long = {"prompt": "word " * 200_000, "max_tokens": 1}
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(httpx.post(f"{router.url}/v1/completions", json=long, timeout=30).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    with httpx.Client(base_url=router.url, timeout=30) as http:
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            assert http.post("/v1/completions", json={"prompt": [1], "max_tokens": 1}).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
    assert statuses == [400, 400], "they are longer than the model"
    assert slowest < 2.0


def test_keys_are_asked_for_limited_and_read_again(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    operator = "ops:sk-ops-123::::operator\n"
    file.write_text(f"alice:sk-alice-1:::\nbob:sk-bob-12:2:1\n{operator}")
    router = Router(stage.redis.url, "--keys.file", str(file), operator="sk-ops-123")
    try:
        with stage.playing(router, "w1", timing=Timing(step_s=0.01)) as (worker,):

            def client(key: str) -> openai.OpenAI:
                return openai.OpenAI(base_url=f"{router.url}/v1", api_key=key, max_retries=0)

            def ask(key: str) -> Any:
                with client(key) as made:
                    return made.completions.create(model="tiny", prompt="a long tale " * 20, max_tokens=2)

            with pytest.raises(openai.AuthenticationError):
                ask("sk-mallory")
            ask("sk-alice-1")
            ask("sk-bob-12")
            salts = {placed.requests[0].salt for placed in worker.received}
            identities = {placed.requests[0].identities for placed in worker.received}
            assert len(salts) == len(identities) == 2, "keys do not share prefixes"
            for _ in range(6):
                try:
                    ask("sk-bob-12")
                except openai.RateLimitError as error:
                    assert error.code == "rate_limit_exceeded" and error.response.headers["retry-after"]
                    break
            else:
                pytest.fail("bob asked without limit")
            file.write_text(f"carol:sk-carol-1\n{operator}")
            eventually(lambda: router.said("keys were read again") is not None)
            ask("sk-carol-1")
            with pytest.raises(openai.AuthenticationError):
                ask("sk-alice-1")
            file.write_text("nonsense\n")
            eventually(lambda: router.said("the keys cannot be read; going on with those before") is not None)
            ask("sk-carol-1")
            assert not any("sk-" in str(line) for line in router.log), "no key is logged"
    finally:
        router.close()
