"""A rolling update: workers of two models live at once, and each request is one model's from end to end."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import httpx
from tests.router.stage import Router, Stage, expected
from tests.spawned import eventually

from baton.testing.simulated import SimulatedWorker, Timing
from baton.tokens import page_identities, root_salt

PROMPT = list(range(1, 50))


def ask(router: Router, **more: Any) -> httpx.Response:
    body = {"prompt": PROMPT, "max_tokens": 30, "temperature": 0, **more}
    return httpx.post(f"{router.url}/v1/completions", json=body, timeout=20, verify=False)


def hashed_for(worker: SimulatedWorker) -> bool:
    """Every request that it got is named in its own hashes."""
    names = page_identities(PROMPT, worker.settings.page_size, root_salt(worker.settings.fingerprint))
    return all(placed.requests[0].identities == names for placed in worker.received)


def test_requests_are_hashed_for_the_workers_they_go_to(stage: Stage, router: Router) -> None:
    with stage.playing(router, "old-1", "old-2", fingerprint="old") as old:
        new = stage.worker("new-1", fingerprint="new", page_size=32)
        router.await_fleet("old-1", "old-2", "new-1")
        for _ in range(4):
            assert ask(router).status_code == 200
        assert not new.received, "most are of the old one"
        for worker in old:
            stage.leave(worker)
        router.await_fleet("new-1")
        assert ask(router).status_code == 200
        assert new.received and hashed_for(new) and all(map(hashed_for, old))
        stage.leave(new)


def test_a_request_that_was_not_begun_may_change_its_model_and_a_stream_may_not(
    stage: Stage, router: Router
) -> None:
    with stage.playing(router, "old-1", fingerprint="old", timing=Timing(step_s=0.02)) as (old,):
        answers: list[httpx.Response] = []

        def asking(stream: bool) -> None:
            answers.append(ask(router, stream=stream))

        threads = [threading.Thread(target=asking, args=(stream,)) for stream in (False, True)]
        for thread in threads:
            thread.start()
        eventually(lambda: old.running == 2 and old.counts["tokens"] > 4)
        new = stage.worker("new-1", fingerprint="new")
        router.await_fleet("old-1", "new-1")
        stage.kill(old)
        for thread in threads:
            thread.join(20)
        whole, stream = sorted(answers, key=lambda answer: "event-stream" in answer.headers["content-type"])
        assert whole.json()["choices"][0]["text"] == expected(PROMPT, 30) and hashed_for(new)
        assert '"code":"peer_lost"' in stream.text and "[DONE]" not in stream.text
        stage.leave(new)


def test_a_stream_goes_to_no_pod_that_keeps_other_pages(stage: Stage, router: Router) -> None:
    """The same weights, another page size: it waits for one of its own kind."""
    with stage.playing(router, "w1", timing=Timing(step_s=0.01)) as (one,):
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(ask(router, stream=True, max_tokens=3000)))
        thread.start()
        eventually(lambda: one.counts["tokens"] > 4)
        other = stage.worker("w2", page_size=32)
        try:
            router.await_fleet("w1", "w2")
            stage.kill(one)
            thread.join(20)
        finally:
            stage.leave(other)
        assert '"code":"peer_lost"' in answers[0].text and not other.received


def test_a_pod_whose_lease_is_of_another_before_it_refuses(stage: Stage, router: Router) -> None:
    """A stream that is lost is brought to it, on the word of an old lease, and goes elsewhere from there."""
    with stage.playing(router, "w1", "w2") as (one, changed):
        changed.settings = replace(changed.settings, fingerprint="new")
        one.faults.break_after = 7
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(ask(router, stream=True)))
        thread.start()
        eventually(lambda: one.counts["aborted"] + changed.counts["refused"] >= 2, 10)
        one.faults.break_after = None
        thread.join(20)
        assert answers[0].text.endswith("data: [DONE]\n\n") and not changed.received
        assert changed.counts["refused"]
        changed.settings = replace(changed.settings, fingerprint=one.settings.fingerprint)
