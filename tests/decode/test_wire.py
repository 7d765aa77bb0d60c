"""A running pod at the level of HTTP: event ids, refusals, leaving clients, metrics, probes."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

import httpx
import pytest
from tests.decode.reading import read
from tests.decode.served import Pod
from tests.spawned import await_true, samples

LONG: dict[str, Any] = {"prompt": "fox", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}


def running(http: httpx.Client) -> float:
    return samples(http.get("/metrics").text)["baton_running"]


@pytest.mark.parametrize("n", [1, 2])
def test_each_event_names_the_tokens_it_brings(http: httpx.Client, n: int) -> None:
    body = {"prompt": "The quick", "max_tokens": 10, "ignore_eos": True, "n": n, "seed": 3}
    whole = http.post("/v1/completions", json={**body, "return_token_ids": True}).json()
    answer = http.post("/v1/completions", json={**body, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    ids: dict[int, list[int]] = {index: [] for index in range(n)}
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        field = re.match(r"id: (?:[\w.]+/)?(\d+)\.(\d+)(?:\+\d+)?:([\d,]*)\.?\ndata: \{", event)
        assert field is not None, event
        tokens = ids[int(field[1])]
        assert len(tokens) == int(field[2])
        tokens += map(int, field[3].split(","))
    assert list(ids.values()) == [choice["token_ids"] for choice in whole["choices"]]


def test_a_client_comes_back_for_the_rest(http: httpx.Client) -> None:
    """Of an answer that nobody seeded."""
    body = {"prompt": "The quick brown fox", "max_tokens": 12, "temperature": 1.5, "stream": True}
    whole = http.post("/v1/completions", json=body).text
    events = [event + "\n\n" for event in whole.split("\n\n")[:-1]]
    last = events[len(events) // 2].partition("\n")[0].removeprefix("id: ")

    def rest(last: str, **more: Any) -> httpx.Response:
        return http.post("/v1/completions", json={**body, **more}, headers={"last-event-id": last})

    assert read("".join(events[: len(events) // 2 + 1]).encode() + rest(last).content).choices[0].text == (
        read(whole.encode()).choices[0].text
    )
    assert rest(last, prompt="Another").status_code == 412
    assert rest(last.replace(last[25:33], "0" * 8)).status_code == 412, "another model's"
    for refused in (rest(last, n=2), rest(last, stream=False), rest("0.1:2")):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Last-Event-ID")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(pod: Pod, http: httpx.Client, stream: bool) -> None:
    body = json.dumps({**LONG, "stream": stream, "n": 2}).encode()
    with socket.create_connection(("127.0.0.1", pod.port)) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-id: leaver-%d\r\n" % stream
            + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip
        await_true(lambda: running(http) == 2, 20)
        if stream:
            client.recv(1000)
    await_true(lambda: running(http) == 0, 10)
    # Pages of a step that was under way are given back after it.
    await_true(lambda: samples(http.get("/metrics").text)["baton_pages{state=used}"] == 0, 10)
    await_true(lambda: any(line.get("client_request") == f"leaver-{stream:d}" for line in pod.log), 5)
    line = next(line for line in pod.log if line.get("client_request") == f"leaver-{stream:d}")
    assert (line["message"], line["reason"]) == ("request cancelled", "the client left")


def deaf(pod: Pod, tokens: int, *headers: str) -> socket.socket:
    """A client that asks for a stream and reads nothing of it. Each event repeats all that was before, so
    that few of them fill what sockets hold (3 MB)."""
    sampling = {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}
    scores = {"return_logprob": True, "top_logprobs_num": 20}
    body = json.dumps({"text": "fox", "sampling_params": sampling, **scores, "stream": True}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", pod.port))
    head = ["POST /generate HTTP/1.1", "host: x", "connection: close", "content-type: application/json"]
    lines = [*head, f"content-length: {len(body)}", *headers, "", ""]
    client.sendall("\r\n".join(lines).encode() + body)
    client.settimeout(20)
    return client


def test_a_client_that_does_not_read_is_waited_for_without_loss(pod: Pod, http: httpx.Client) -> None:
    """What it was not sent gathers as a few fat events, and comes whole when it reads at last."""
    with deaf(pod, 400) as client:
        await_true(lambda: running(http) == 1, 20)
        await_true(lambda: running(http) == 0, 60)  # the engine does not wait for the client
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    text = b"".join(parts)
    assert b"data: [DONE]" in text
    sizes = [len(ids.split(b",")) for ids in re.findall(rb"id: 0\.\d+(?:\+\d+)?:([\d,]+)", text)]
    assert sum(sizes) == 400
    assert max(sizes) > 50, "events were queued one by one"


def test_a_client_that_never_reads_is_given_up_at_its_deadline(pod: Pod, http: httpx.Client) -> None:
    with deaf(pod, 3000, "x-baton-deadline-ms: 3000"):
        await_true(lambda: running(http) == 1, 20)
        await_true(lambda: running(http) == 0, 10)
        late = "the request took more than 3 seconds"
        await_true(lambda: any(line.get("reason") == late for line in pod.log), 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_a_request(http: httpx.Client, stream: bool) -> None:
    headers = {"x-baton-deadline-ms": "700"}
    answer = http.post("/v1/completions", json={**LONG, "stream": stream}, headers=headers)
    if stream:
        assert answer.status_code == 200
        last = answer.text.rstrip().rpartition("\n\n")[2]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert "[DONE]" not in answer.text
    else:
        assert (answer.status_code, answer.headers["x-baton-reason"]) == (504, "deadline_exceeded")
    await_true(lambda: running(http) == 0, 10)
    wrong = http.post("/v1/completions", json=LONG, headers={"x-baton-deadline-ms": "soon"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-baton-deadline-ms")


@pytest.mark.parametrize(
    ("content", "headers", "status", "reason"),
    [
        (b'{"prompt": "fox"', {}, 400, "invalid_request"),
        (b"\xff\xfe", {}, 400, "invalid_request"),
        (b"", {}, 400, "invalid_request"),
        (b"[1]", {}, 400, "invalid_request"),
        (b"[" * 100000, {}, 400, "invalid_request"),
        (b"prompt=fox", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b'{"prompt": "fox", "promt": 1}', {}, 400, "unknown_parameter"),
    ],
)
def test_what_is_no_request_is_refused_in_openai_s_shape(
    http: httpx.Client, content: bytes, headers: dict[str, str], status: int, reason: str
) -> None:
    headers = {"content-type": "application/json", "x-request-id": "mine", **headers}
    answer = http.post("/v1/completions", content=content, headers=headers)
    assert (answer.status_code, answer.headers["x-baton-reason"]) == (status, reason)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"] == "mine"


def test_a_hundred_megabytes_are_refused_before_they_are_sent(pod: Pod) -> None:
    size = 100 * 2**20
    with socket.create_connection(("127.0.0.1", pod.port)) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % size
        )
        client.settimeout(5)
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"x-baton-reason: request_too_large" in answer


def test_slow_and_huge_heads_are_closed(pod: Pod) -> None:
    with socket.create_connection(("127.0.0.1", pod.port)) as client:
        client.settimeout(10)
        began = time.monotonic()
        for byte in b"GET /livez":
            client.send(bytes([byte]))
            time.sleep(0.05)
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ") and 1 < time.monotonic() - began < 6
    with socket.create_connection(("127.0.0.1", pod.port)) as client:
        client.settimeout(10)
        client.sendall(b"GET /livez HTTP/1.1\r\nx-long: " + b"a" * 10000)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_hostile_request_id_is_not_repeated(http: httpx.Client) -> None:
    for given in ["a" * 200, "täg"]:
        headers = {"x-request-id": given.encode("latin-1")}
        answer = http.post("/tokenize", json={"prompt": "x"}, headers=headers)
        assert answer.headers["x-request-id"].startswith("req-")


def test_probes_and_versions(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"live": True}
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["role"]) == (200, True, "unified")
    assert http.get("/health").status_code == 200
    assert "version" in http.get("/version").json()
    lost = http.get("/v2/models")
    assert (lost.status_code, lost.headers["x-baton-reason"]) == (404, "not_found")
    wrong = http.get("/v1/completions")
    assert (wrong.status_code, wrong.headers["x-baton-reason"], wrong.headers["allow"]) == (
        405, "method_not_allowed", "POST",
    )  # fmt: skip


def test_pages_of_a_text_that_ended_are_told_free(http: httpx.Client) -> None:
    """Its end is known a step before its pages come free, and that step has nothing else to tell."""
    ending = {"prompt": "fox", "max_tokens": 50, "logit_bias": {"2": 100}}
    assert http.post("/v1/completions", json=ending).json()["choices"][0]["finish_reason"] == "stop"
    await_true(lambda: samples(http.get("/metrics").text)["baton_pages{state=used}"] == 0, 10)


def test_metrics_count_what_happened(http: httpx.Client) -> None:
    before = samples(http.get("/metrics").text)
    body = {"prompt": "The quick brown fox jumps over it. " * 6, "max_tokens": 5, "ignore_eos": True}
    prompt = http.post("/v1/completions", json=body).json()["usage"]["prompt_tokens"]
    again = http.post("/v1/completions", json=body).json()["usage"]
    assert http.post("/v1/completions", json={**body, "n": 0}).status_code == 400
    after = samples(http.get("/metrics").text)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("baton_requests_total{endpoint=completion,outcome=completed}") == 2
    assert grown("baton_requests_total{endpoint=completion,outcome=rejected}") == 1
    assert grown("baton_tokens_total{kind=prompt}") == 2 * prompt
    cached = again["prompt_tokens_details"]["cached_tokens"]
    assert cached >= prompt - 16 and grown("baton_tokens_total{kind=cached}") >= cached
    assert grown("baton_tokens_total{kind=generated}") == 10
    assert grown("baton_ttft_seconds_count") == grown("baton_e2e_seconds_count") == 2
    assert grown("baton_itl_seconds_count") == 8
    pages = [after[f"baton_pages{{state={state}}}"] for state in ("free", "cached", "used")]
    assert sum(pages) == 1024 and pages[1] > 0
    assert after["vllm:num_requests_running{model_name=tiny}"] == 0
    assert after["vllm:num_requests_waiting{model_name=tiny}"] == 0
    assert after["vllm:kv_cache_usage_perc{model_name=tiny}"] == 0
