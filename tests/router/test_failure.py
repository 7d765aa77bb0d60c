"""Pods that refuse, break, fall silent or die; clients that leave. Answers are right, or errors."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest
from tests.router.stage import Router, Stage, expected, prompt_ids
from tests.spawned import eventually

from baton.core.errors import Draining, QueueFull
from baton.testing.simulated import SimulatedWorker, Timing

TEXT = "The quick brown fox"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": TEXT}], "temperature": 0.0}
EXPLAIN = {"x-baton-explain": "true"}


def content(answer: httpx.Response) -> str:
    """The text of a stream that must have ended well, and without a gap."""
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    text, roles = "", 0
    for event in events:
        choice = json.loads(event[event.index("data: ") + 6 :])["choices"][0]
        roles += "role" in choice["delta"]
        text += choice["delta"]["content"]
    assert roles == 1
    return text


def ask(http: httpx.Client, tokens: int, stream: bool, **more: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={**CHAT, "max_tokens": tokens, "stream": stream, **more})


def first_of(http: httpx.Client, workers: list[SimulatedWorker]) -> tuple[SimulatedWorker, SimulatedWorker]:
    """The worker that the next such request goes to, and the other."""
    body = {**CHAT, "max_tokens": 1}
    chosen = http.post("/v1/chat/completions", json=body, headers=EXPLAIN).headers["x-baton-decode"]
    one, other = workers
    return (one, other) if one.settings.id == chosen else (other, one)


@pytest.mark.parametrize(
    ("path", "field", "prompt"),
    [
        ("/v1/chat/completions", "messages", [{"role": "user", "content": TEXT}]),
        ("/v1/completions", "prompt", [5] * 40),
        ("/generate", "text", TEXT * 9),
        ("/generate", "input_ids", [5] * 40),
    ],
)
def test_a_prompt_that_no_pool_holds_is_named_as_its_client_did(
    stage: Stage, router: Router, http: httpx.Client, path: str, field: str, prompt: Any
) -> None:
    with stage.playing(router, "w1", pages=2):
        answer = http.post(path, json={field: prompt})
    told = answer.json()["error"]
    assert (answer.status_code, told["code"], told["param"]) == (400, "context_length_exceeded", field)


@pytest.mark.parametrize(
    ("how", "stream"), [("break", True), ("break", False), ("cut", True), ("error", True)]
)
def test_a_pod_that_fails_in_the_middle(
    http: httpx.Client, workers: list[SimulatedWorker], how: str, stream: bool
) -> None:
    for worker in workers:
        if how == "error":
            worker.faults.fail_after = 7
        else:
            worker.faults.break_after = 7
            worker.faults.cut = how == "cut"
    answers = []

    def asking() -> None:
        answers.append(ask(http, 30, stream))

    thread = threading.Thread(target=asking)
    thread.start()
    eventually(lambda: any(worker.counts["requests"] for worker in workers))
    for worker in workers:  # the first has failed or is about to; the next attempts go through
        eventually(lambda: sum(worker.counts["requests"] for worker in workers) >= 2)
        worker.faults.fail_after = worker.faults.break_after = None
    thread.join(20)
    (answer,) = answers
    assert answer.status_code == 200
    got = content(answer) if stream else answer.json()["choices"][0]["message"]["content"]
    assert got == expected(prompt_ids(TEXT), 30)
    resumed = [placed for worker in workers for placed in worker.received if placed.resumes]
    assert bool(resumed) == stream
    if stream:
        assert min(len(placed.requests[0].generated) for placed in resumed) == 7
    ids = [request.id for worker in workers for placed in worker.received for request in placed.requests]
    assert len(ids) == len(set(ids)), "each attempt has new ids"


def test_a_sampled_stream_of_several_choices_resumes_each_where_it_was(
    http: httpx.Client, workers: list[SimulatedWorker]
) -> None:
    body: dict[str, Any] = {"prompt": [[1, 2], [3]], "max_tokens": 12, "n": 2, "seed": 4, "temperature": 1.0}
    whole = [choice["text"] for choice in http.post("/v1/completions", json=body).json()["choices"]]
    one, other = workers
    one.faults.break_after = other.faults.break_after = 40  # of 48, both together
    with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        lines = iter(answer.iter_lines())
        texts = ["", "", "", ""]
        for line in lines:
            if line.startswith("data: {"):
                one.faults.break_after = None if one.counts["aborted"] else one.faults.break_after
                other.faults.break_after = None
                choice = json.loads(line[6:])["choices"][0]
                texts[choice["index"]] += choice["text"]
    assert texts == whole and line in ("", "data: [DONE]")


def test_a_pod_that_refuses_is_passed_over(http: httpx.Client, workers: list[SimulatedWorker]) -> None:
    one, other = first_of(http, workers)
    one.faults.refuse = QueueFull("full")
    for _ in range(3):
        assert ask(http, 4, False).status_code == 200
    assert other.counts["requests"] >= 3
    other.faults.refuse = QueueFull("full")
    refused = ask(http, 4, True)
    assert refused.status_code == 429 and refused.headers["retry-after"]
    assert refused.headers["x-baton-reason"] == "queue_full"
    one.faults.refuse = other.faults.refuse = Draining("leaving")
    refused = ask(http, 4, False)
    assert (refused.status_code, refused.headers["x-baton-reason"]) == (503, "draining")


def test_a_request_that_meets_the_last_pod_as_it_leaves_waits_for_the_next(
    stage: Stage, router: Router, http: httpx.Client
) -> None:
    """Its client is told of no failure: a lease says a moment after its pod that it drains."""
    with stage.playing(router, "w1") as (leaving,):
        leaving.faults.refuse = Draining("leaving")
        answers: list[httpx.Response] = []
        threads = [
            threading.Thread(target=lambda stream=stream: answers.append(ask(http, 4, stream)))
            for stream in (False, True)
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: leaving.counts["refused"] >= 2)
        assert not answers
        stage.leave(leaving)
        with stage.playing(router, "w2"):
            for thread in threads:
                thread.join(10)
        assert [answer.status_code for answer in answers] == [200, 200]


def test_a_pod_that_died_is_passed_over_and_shunned(
    stage: Stage, router: Router, http: httpx.Client, workers: list[SimulatedWorker]
) -> None:
    one, _ = first_of(http, workers)
    stage.kill(one)
    for _ in range(5):
        assert ask(http, 4, False).status_code == 200
    eventually(lambda: router.fleet() == {worker.settings.id for worker in workers} - {one.settings.id})
    assert router.ready()


def test_pods_that_are_gone_are_no_tries(stage: Stage, router: Router, http: httpx.Client) -> None:
    """More than may fail a request have died at once, and have leases still: it waits for one that lives."""
    with stage.playing(router, *[f"w{number}" for number in range(8)], expiry_s=20.0) as workers:
        for worker in workers:
            stage.kill(worker)
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(ask(http, 4, True)))
        thread.start()
        time.sleep(0.5)
        assert not answers
        with stage.playing(router, *[f"w{number}" for number in range(8)]):
            thread.join(10)
        assert content(answers[0]) == expected(prompt_ids(TEXT), 4)


def test_each_wait_for_a_pod_has_its_time(stage: Stage, router: Router, http: httpx.Client) -> None:
    """The second is not over because the first took nearly all that one wait may take."""
    slow = Timing(step_s=0.02)
    body = {**CHAT, "max_tokens": 150, "stream": True}
    with stage.playing(router, "w1", timing=slow) as (first,):
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            told = [next(lines) for _ in range(8)]
            stage.kill(first)
            time.sleep(2.0)
            second = stage.worker("w2", timing=slow)
            told += [next(lines) for _ in range(160)]
            stage.kill(second)
            time.sleep(0.5)
            third = stage.worker("w3")
            told += list(lines)
        stage.leave(third)
    text = "".join(
        [json.loads(line[6:])["choices"][0]["delta"]["content"] for line in told if "content" in line]
    )
    assert text == expected(prompt_ids(TEXT), 150)


def test_nobody_is_there(stage: Stage, router: Router, http: httpx.Client) -> None:
    eventually(lambda: not router.fleet())
    assert http.get("/readyz").status_code == 503 and http.get("/readyz").json()["reason"] == "no_decode"
    answer = ask(http, 4, True)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.json()["error"]["type"] == "service_unavailable_error"
    with stage.playing(router, "w7", role="prefill"):
        assert http.get("/readyz").json()["reason"] == "no_decode"
    assert http.get("/livez").status_code == 200


def test_a_stream_that_is_lost_for_good_ends_with_an_error(
    stage: Stage, router: Router, http: httpx.Client
) -> None:
    body = {**CHAT, "max_tokens": 500, "stream": True}
    with (
        stage.playing(router, "w1", timing=Timing(step_s=0.02)) as (only,),
        http.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        while not next(lines).startswith("data: "):
            pass
        stage.kill(only)
        rest = [line for line in lines if line]
    last = json.loads(rest[-1][len("data: ") :])
    assert last["error"]["code"] == "peer_lost" and "data: [DONE]" not in rest


def test_a_deadline_ends_it_with_504(stage: Stage, router: Router, http: httpx.Client) -> None:
    with stage.playing(router, "w1", timing=Timing(prefill_s=5.0)) as (worker,):
        began = time.monotonic()
        answer = http.post(
            "/v1/chat/completions", json={**CHAT, "max_tokens": 4}, headers={"x-baton-deadline-ms": "300"}
        )
        assert answer.status_code == 504 and time.monotonic() - began < 4
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert 0 < int(worker.headers[-1][b"x-baton-deadline-ms"]) <= 300
        assert worker.headers[-1][b"x-request-id"].decode() == answer.headers["x-request-id"]
        eventually(lambda: worker.counts["aborted"] == 1, 10)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_work(stage: Stage, router: Router, stream: bool) -> None:
    with stage.playing(router, "w1", timing=Timing(step_s=0.01)) as (worker,):
        body = json.dumps({**CHAT, "max_tokens": 3000, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", router.port)) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: leaver-%d\r\n" % stream
                + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )  # fmt: skip
            eventually(lambda: worker.running == 1)
        assert eventually(lambda: worker.running == 0, 10) < 5
    eventually(lambda: router.said("request cancelled", client_request=f"leaver-{stream:d}") is not None)


def test_a_client_that_does_not_read_slows_its_pod(stage: Stage, router: Router) -> None:
    """And costs the router no more than a few buffers."""
    with stage.playing(router, "w1", max_model_len=1 << 22, pages=1 << 20) as (worker,):
        body = json.dumps({"prompt": [1], "max_tokens": 1 << 20, "stream": True}).encode()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", router.port))
            client.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                + b"content-length: %d\r\n\r\n" % len(body) + body
            )  # fmt: skip
            eventually(lambda: worker.counts["tokens"] > 100)
            eventually(lambda: all(work.line.paused for work in worker._running), 20)
            told = worker.counts["tokens"]
            time.sleep(0.5)
            assert worker.counts["tokens"] < told + 1000 < 200_000
        eventually(lambda: worker.running == 0, 10)


def test_a_stopped_pod_is_found_out_by_its_silence(stage: Stage, router: Router, http: httpx.Client) -> None:
    """It takes requests and never answers; its lease ends, and what it had goes elsewhere."""
    with stage.playing(router, "w1", "w2") as workers:
        one, other = first_of(http, workers)
        one.faults.silent = True
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(ask(http, 10, True)))
        thread.start()
        eventually(lambda: one.counts["requests"] + other.counts["requests"] >= 2)
        stage.kill(one)
        thread.join(10)
        assert content(answers[0]) == expected(prompt_ids(TEXT), 10)
