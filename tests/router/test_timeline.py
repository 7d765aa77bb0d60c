from __future__ import annotations

import httpx
import pytest
from tests.router.test_failure import CHAT

from baton.testing.simulated import SimulatedWorker


@pytest.mark.parametrize("asked", [True, False])
def test_who_asks_when_what_happened_has_the_pod_tell(
    http: httpx.Client, workers: list[SimulatedWorker], asked: bool
) -> None:
    headers = {"x-baton-timeline": "true"} if asked else {}
    assert http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 2}, headers=headers).is_success
    (placed,) = [placed for worker in workers for placed in worker.received]
    assert placed.timeline is asked
