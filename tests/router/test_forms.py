"""Forms through a router: what cannot be compiled, or not soon, is an error, and nobody waits for it."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from tests.router.stage import Router, Stage

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
SLOW = {"type": "integer", "multipleOf": 99_999_989}


def ask(http: httpx.Client, **more: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={**CHAT, **more})


def test_a_grammar_goes_with_its_request(stage: Stage, router: Router, http: httpx.Client) -> None:
    with stage.playing(router, "w1") as (worker,):
        assert ask(http, guided_choice=["yes", "no"]).status_code == 200
        assert ask(http).status_code == 200
        first, second = [placed.requests[0].sampling.grammar for placed in worker.received]
    assert '\\"yes\\" | \\"no\\"' in first and second == ""


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"guided_regex": "[0-9"}, "guided_regex", "unclosed character class"),
        ({"structured_outputs": {"json": {"type": "strin"}}}, "structured_outputs.json", "Invalid type"),
        ({"ebnf": "start: rule"}, "ebnf", "rule"),
        ({"guided_json": SLOW}, "guided_json", "takes more than 2 s"),
    ],
)
def test_what_is_wrong_is_said_and_no_pod_is_asked(
    stage: Stage, router: Router, http: httpx.Client, fields: dict[str, Any], param: str, says: str
) -> None:
    with stage.playing(router, "w1") as (worker,):
        answer = ask(http, **fields)
        told = answer.json()["error"]
        assert (answer.status_code, told["param"], says in told["message"]) == (400, param, True), told
        assert not worker.received


def test_nobody_waits_for_a_grammar_that_takes_long(stage: Stage, router: Router, http: httpx.Client) -> None:
    with stage.playing(router, "w1"):
        answers: list[httpx.Response] = []
        slow = {**SLOW, "multipleOf": 99_999_971}
        thread = threading.Thread(target=lambda: answers.append(ask(http, guided_json=slow)))
        thread.start()
        served = 0
        while not answers:  # two seconds of a core, and the start of its process
            assert ask(http).status_code == 200
            served += not answers
        assert served > 2
        thread.join(20)
        assert answers[0].status_code == 400
