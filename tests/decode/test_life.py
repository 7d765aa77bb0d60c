"""A pod's life: what it says while it starts, drains and dies, and how it exits."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.decode.served import Pod
from tests.spawned import await_true, samples

import openai
from baton.decode.__main__ import main
from baton.tiny import model_path

LONG: dict[str, Any] = {"prompt": "fox", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}


@contextmanager
def started(*flags: str) -> Iterator[tuple[Pod, httpx.Client]]:
    pod = Pod(*flags)
    try:
        pod.await_line("ready")
        with httpx.Client(base_url=pod.url, timeout=60) as http:
            yield pod, http
    finally:
        pod.close()


class Stream:
    """A streaming request that is read by a thread of its own."""

    def __init__(self, http: httpx.Client, **body: Any) -> None:
        self.text = ""
        self.status = 0
        self._thread = threading.Thread(target=self._read, args=(http, {**LONG, **body, "stream": True}))
        self._thread.start()

    def _read(self, http: httpx.Client, body: dict[str, Any]) -> None:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            self.status = answer.status_code
            for text in answer.iter_text():
                self.text += text

    def begun(self) -> bool:
        return "data: " in self.text

    def end(self, seconds: float) -> str:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        return self.text


def test_sigterm_lets_a_stream_finish_and_takes_no_new_work() -> None:
    with started() as (pod, http):
        stream = Stream(http, max_tokens=800)
        await_true(stream.begun, 20)
        pod.terminate()
        await_true(lambda: http.get("/readyz").status_code == 503, 5)
        assert http.get("/readyz").json()["reason"] == "draining"
        assert http.get("/livez").status_code == 200
        refused = http.post("/v1/completions", json=LONG)
        assert (refused.status_code, refused.headers["x-baton-reason"]) == (503, "draining")
        assert refused.headers["retry-after"]
        assert "[DONE]" not in stream.text, "the stream ended before anything was tested"
        assert pod.wait(60) == 0
        text = stream.end(5)
        assert text.endswith("data: [DONE]\n\n") and "error" not in text
        assert pod.said("stopped") is not None


def test_what_outlasts_the_drain_is_told_so() -> None:
    with started("--limits.drain_s", "0.5") as (pod, http):
        stream = Stream(http)
        await_true(stream.begun, 20)
        pod.terminate()
        assert pod.wait(20) == 0
        text = stream.end(5)
        assert '"code":"draining"' in text and "[DONE]" not in text


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_a_killed_rank_ends_everything_at_once_and_says_why(tensor_parallel: int) -> None:
    with started("--engine.tensor_parallel", str(tensor_parallel)) as (pod, http):
        stream = Stream(http)
        await_true(stream.begun, 20)
        ranks = pod.ranks()
        assert len(ranks) == tensor_parallel
        os.kill(ranks[-1], signal.SIGKILL)
        assert pod.wait(5) == 1
        text = stream.end(5)
        last = text.rstrip().rpartition("\n\n")[2]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "worker_died"
        assert "[DONE]" not in text
        reasons = [line for line in pod.log if line["message"].startswith("stopped: ")]
        # Which of the two is noticed first is chance: the killed rank, or its peer's broken collective.
        assert len(reasons) == 1
        assert re.search(r"was killed by SIGKILL|another rank is gone", reasons[0]["message"])
        await_true(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), 5)


def test_a_crowded_pod_says_come_back_later() -> None:
    flags = ["--engine.max_running", "1", "--engine.max_queued", "1", "--limits.max_requests", "3"]
    with started(*flags) as (pod, http):
        with openai.OpenAI(base_url=f"{pod.url}/v1", api_key="x", max_retries=0, timeout=60) as client:
            ask: dict[str, Any] = {"model": str(model_path()), "prompt": "fox", "max_tokens": 4}
            running = Stream(http)
            await_true(running.begun, 20)
            waiting = Stream(http)
            await_true(lambda: samples(http.get("/metrics").text)["baton_waiting"] == 1, 5)
            for stream in (False, True):  # refused by the engine, before anything was streamed
                with pytest.raises(openai.RateLimitError, match="max_queued") as caught:
                    client.completions.create(**ask, stream=stream)
                assert caught.value.response.headers["retry-after"]
                assert caught.value.response.headers["x-baton-reason"] == "queue_full"
            third = Stream(http, n=2)
            third.end(20)
            assert third.status == 429, "one of its sequences was refused"
        pod.terminate()
        pod.terminate()
        time.sleep(0.2)
        pod.terminate()  # the second one hurries
        assert pod.wait(20) == 0
        assert '"code":"draining"' in running.end(5)
        waiting.end(5)
        assert (waiting.status, '"code":"draining"' in waiting.text) == (503, True)


def test_while_it_loads_it_lives_and_is_not_ready() -> None:
    pod = Pod()
    try:
        with httpx.Client(base_url=pod.url, timeout=60) as http:
            assert http.get("/livez").status_code == 200
            ready = http.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (503, "starting")
            for answer in (http.get("/v1/models"), http.post("/v1/completions", json=LONG)):
                assert (answer.status_code, answer.headers["x-baton-reason"]) == (503, "starting")
        assert pod.said("ready") is None, "it was ready too soon for this test"
        pod.terminate()
        assert pod.wait(20) == 0
    finally:
        pod.close()


def test_metrics_may_have_a_port_of_their_own() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    pod = Pod("--http.metrics_port", str(port))
    try:
        with httpx.Client(base_url=pod.url, timeout=60) as http:
            assert http.get("/metrics").status_code == 404
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as other:
                assert "baton_running" in other.get("/metrics").text
                assert other.get("/readyz").status_code == 503
                assert other.post("/v1/completions", json=LONG).status_code == 404
    finally:
        pod.close()


def test_a_taken_port_is_said_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        model = ["--engine.model", str(model_path()), "--logs.format", "text"]
        assert main([*model, "--http.host", "127.0.0.1", "--http.port", str(port)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot start: http: cannot listen on 127.0.0.1:{port}: Address already in use" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "engine.model: is required"),
        (["--engine.model", "m", "--role", "prefil"], "role: must be one of unified"),
        (["--engine.model", "m", "--engine.page_size", "0"], "engine.page_size: must be between"),
        (["--engine.model", "m", "--limits.drain_s", "-1"], "limits.drain_s: must be 0 or more"),
        (["--engine.model", "m", "--http.port", "80", "--http.metrics_port", "80"], "must be 0 or differ"),
        (["--engine.model", "/absent", "--logs.level", "error"], "/absent is not a directory"),
    ],
)
def test_a_wrong_setting_is_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = [] if "--http.port" in flags else ["--http.port", "0"]
    assert main(["--http.host", "127.0.0.1", *port, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
