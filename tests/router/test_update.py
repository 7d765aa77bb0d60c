"""A rolling update: workers of two models live at once, and each request is one model's from end to end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx
from tests.router.stage import Router, Stage, expected
from tests.spawned import eventually

from baton.core.errors import Draining
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
            answers.append(ask(router, stream=stream, max_tokens=900))

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
        assert whole.json()["choices"][0]["text"] == expected(PROMPT, 900) and hashed_for(new)
        assert '"code":"peer_lost"' in stream.text and "[DONE]" not in stream.text
        stage.leave(new)


def test_a_pod_that_leaves_sends_nobody_away_while_another_model_s_is_there(
    stage: Stage, router: Router
) -> None:
    """The last of the old ones refuses before its lease says that it drains."""
    with stage.playing(router, "old-1", fingerprint="old") as (old,):
        new = stage.worker("new-1", fingerprint="new")
        try:
            router.await_fleet("old-1", "new-1")
            for stream in (False, True):
                assert ask(router, stream=stream).status_code == 200 and not new.received
            old.faults.refuse = Draining("leaving")
            for stream in (False, True):
                answer = ask(router, stream=stream)
                assert answer.status_code == 200, answer.text
            assert len(new.received) == 2 and hashed_for(new)
        finally:
            stage.leave(new)


def test_a_request_between_two_models_waits_for_the_pods_that_come(stage: Stage) -> None:
    """The new one has prefill pods and no decode pods yet, the old one's prefill pods have gone, and nobody
    computes prompts by itself."""
    router = Router(stage.redis.url, "--placement.local", "false", "--retry.wait_s", "18")
    with closing(router), stage.playing(router, "old-d", role="decode", fingerprint="old"):
        alone = ask(router)
        assert (alone.status_code, alone.elapsed.total_seconds() < 9) == (503, True), "nobody is coming"
        prefill = stage.worker("new-p", role="prefill", fingerprint="new")
        router.await_fleet("old-d", "new-p")
        with ThreadPoolExecutor() as threads:
            answers = [threads.submit(ask, router, stream=stream) for stream in (False, True)]
            time.sleep(0.5)
            assert not any([answer.done() for answer in answers])
            decode = stage.worker("new-d", role="decode", fingerprint="new")
            assert [answer.result().status_code for answer in answers] == [200, 200]
        assert hashed_for(decode)
        stage.leave(decode)
        stage.leave(prefill)


def test_a_request_waits_for_who_takes_the_place_of_the_last_pod(stage: Stage, router: Router) -> None:
    with stage.playing(router, "w1") as (leaving,), ThreadPoolExecutor() as threads:
        stage.drain(leaving)
        eventually(lambda: httpx.get(f"{router.url}/readyz").status_code == 503)
        answer = threads.submit(ask, router)
        time.sleep(0.5)
        assert not answer.done()
        stage.leave(leaving)
        with stage.playing(router, "w2"):
            assert answer.result().status_code == 200


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
