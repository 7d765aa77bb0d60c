"""Clients that lost their connection and come back with `Last-Event-ID`, to any router."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.router.stage import Router, Stage
from tests.spawned import eventually

from baton.testing.simulated import SimulatedWorker, Timing

TOKENS = 12
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "The quick brown fox"}]}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy chat": ("/v1/chat/completions", {**CHAT, "temperature": 0}),
    "seeded completion": ("/v1/completions", {"prompt": [4, 5, 6], "seed": 7, "temperature": 1.0}),
    "sampled chat": ("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}}),
    "sampled completion": ("/v1/completions", {"prompt": "one two three", "temperature": 1.5}),
}


@pytest.fixture(scope="module")
def second(stage: Stage) -> Iterator[Router]:
    """Another router over the same workers."""
    made = Router(stage.redis.url)
    yield made
    made.close()


@pytest.fixture
def both(router: Router, second: Router, workers: list[SimulatedWorker]) -> list[Router]:
    second.await_fleet("w1", "w2")
    return [router, second]


def body_of(asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"max_tokens": TOKENS, **asked, "stream": True, **more}


def events_of(data: str) -> list[str]:
    assert data.endswith("\n\n")
    return [event + "\n\n" for event in data.split("\n\n")[:-1]]


def id_of(event: str) -> str | None:
    found = re.match(r"id: (.*)\n", event)
    return found and found[1]


def ask(router: Router, path: str, body: dict[str, Any], last: str = "") -> httpx.Response:
    headers = {"last-event-id": last} if last else {}
    return httpx.post(f"{router.url}{path}", json=body, headers=headers, timeout=30, verify=False)


def told(data: str) -> str:
    """Without what each pod finds for itself: how much of the prompt it has cached."""
    return re.sub(r'"cached_tokens":\d+|\+\d+', "", data)


@pytest.mark.parametrize("name", ASKED)
def test_cut_after_every_event_the_rest_follows_from_another_router(both: list[Router], name: str) -> None:
    path, asked = ASKED[name]
    body = body_of(asked)
    whole = ask(both[0], path, body).text
    events, had = events_of(whole), ""
    assert len([event for event in events if id_of(event)]) == TOKENS
    for place, event in enumerate(events):
        had += event
        if (last := id_of(event)) is None:
            continue
        rest = ask(both[place % 2], path, body, last)
        assert rest.status_code == 200, rest.text
        assert told(had + rest.text) == told(whole)


def test_a_continued_stream_can_be_cut_again(both: list[Router]) -> None:
    path, asked = ASKED["sampled chat"]
    body = body_of(asked)
    events = events_of(ask(both[0], path, body).text)
    got = events[:1]
    while len(got) < TOKENS:
        rest = ask(both[len(got) % 2], path, body, id_of(got[-1]) or "").text
        got.append(events_of(rest)[0])
    assert told("".join(got)) == told("".join(events[:TOKENS]))


def test_a_socket_that_breaks_ends_the_work_and_its_client_comes_back(
    stage: Stage, router: Router, second: Router
) -> None:
    """Nothing is kept for it: the work has ended before it asks again."""
    body = json.dumps(body_of(CHAT, max_tokens=40)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with stage.playing(router, "slow", timing=Timing(step_s=0.02)) as (worker,):
        second.await_fleet("slow")
        with socket.create_connection(("127.0.0.1", router.port)) as client:
            client.sendall(head + body)
            seen = ""
            while seen.count("\nid: ") < 3:
                seen += client.recv(4096).decode()
        assert eventually(lambda: worker.running == 0, 5) < 1
        had = [
            line
            for line in seen.split("\n")
            if line.startswith("id: ") and line in seen[: seen.rindex("\n\n")]
        ]
        rest = ask(second, "/v1/chat/completions", json.loads(body), had[-1][4:])
        whole = ask(second, "/v1/chat/completions", json.loads(body), had[0][4:])
    assert rest.text.endswith("data: [DONE]\n\n") and told(whole.text).endswith(told(rest.text))
    assert len(events_of(rest.text)) == 40 - len(had) + 1


@pytest.mark.parametrize("how", ["break", "error"])
def test_a_pod_that_dies_under_a_continued_stream(
    both: list[Router], workers: list[SimulatedWorker], how: str
) -> None:
    path, asked = ASKED["sampled completion"]
    body = body_of(asked)
    whole = events_of(ask(both[0], path, body).text)
    for worker in workers:
        worker.received.clear()
        if how == "error":
            worker.faults.fail_after = 4
        else:
            worker.faults.break_after = 4
    rest = ask(both[0], path, body, id_of(whole[2]) or "")
    assert told(rest.text) == "".join(whole[3:])
    placed = [placed.had.tokens for worker in workers for placed in worker.received if placed.had]
    assert sorted(placed) == [3, 7, 11]


@pytest.mark.parametrize(
    "bad",
    [
        "7",
        "0.3:5,6",
        "x/0.3:5",
        "{ticket}/0.0:",
        "{ticket}/1.0:5",
        "{ticket}/0.0:5,",
        "{ticket}/0.0:5;",
        "{short}/0.0:5",
        "{ticket}/0.99999999999:5",
        "\xb2",
    ],
)
def test_an_id_that_is_none_is_refused_by_the_headers_name(both: list[Router], bad: str) -> None:
    path, asked = ASKED["greedy chat"]
    ticket = (id_of(ask(both[0], path, body_of(asked)).text) or "").partition("/")[0]
    value = bad.format(ticket=ticket, short=ticket[1:]).encode("latin-1")
    answer = httpx.post(
        f"{both[0].url}{path}", json=body_of(asked), headers={b"last-event-id": value}, verify=False
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "Last-Event-ID"


@pytest.mark.parametrize(
    ("path", "more", "says"),
    [
        ("/v1/chat/completions", {"stream": False}, "only a stream"),
        ("/v1/chat/completions", {"n": 2}, "only one choice"),
        ("/generate", {}, "only one choice"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    both: list[Router], path: str, more: dict[str, Any], says: str
) -> None:
    first = ask(both[0], "/v1/chat/completions", body_of(CHAT)).text
    body: dict[str, Any] = {"text": "fox", "stream": True} if path == "/generate" else body_of(CHAT, **more)
    answer = ask(both[0], path, body, id_of(first) or "")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "Last-Event-ID") and says in error["message"]


def test_another_question_is_not_continued(both: list[Router], workers: list[SimulatedWorker]) -> None:
    path, asked = ASKED["greedy chat"]
    last = id_of(events_of(ask(both[0], path, body_of(asked)).text)[4]) or ""
    other = {**asked, "messages": [{"role": "user", "content": "Another"}]}
    longer = body_of(asked, max_tokens=3)
    for body in (body_of(other), longer):
        answer = ask(both[1], path, body, last)
        assert answer.status_code == 412, answer.text
        assert answer.json()["error"]["code"] == "cannot_continue"
    assert sum(worker.counts["requests"] for worker in workers) == 1, "none was tried elsewhere"


def test_answers_of_another_model_are_not_continued(stage: Stage, router: Router) -> None:
    path, body = "/v1/completions", body_of({"prompt": [1, 2, 3], "temperature": 0})
    new: list[SimulatedWorker] = []
    try:
        with stage.playing(router, "old", fingerprint="old"):
            whole = events_of(ask(router, path, body).text)
            last = id_of(whole[3]) or ""
            new += [stage.worker(id, fingerprint="new") for id in ("new-1", "new-2")]
            router.await_fleet("old", "new-1", "new-2")
            assert ask(router, path, body).is_success and any(worker.received for worker in new)
            assert told(ask(router, path, body, last).text) == "".join(whole[4:]), (
                "the old one is still there"
            )
            assert not any(placed.had for worker in new for placed in worker.received)
            stage.leave(stage.peers.workers["old"])
            router.await_fleet("new-1", "new-2")
            answer = ask(router, path, body, last)
            assert answer.status_code == 412 and "served no more" in answer.json()["error"]["message"]
            for worker in new:
                stage.leave(worker)
    finally:
        for worker in new:
            if worker.settings.id in stage.peers.workers:
                stage.leave(worker)
