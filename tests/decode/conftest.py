from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.checkpoints import checkpoint
from tests.decode.served import Pod
from tests.spawned import START_S, await_true

__all__ = ["checkpoint", "http", "pod"]


@pytest.fixture(scope="session")
def pod() -> Iterator[Pod]:
    """One pod for all tests that leave it as they found it."""
    pod = Pod("--names", "tiny,small", "--http.header_s", "1.5", "--http.max_header_bytes", "8192")
    try:
        await_true(lambda: pod.said("ready") is not None or pod.process.poll() is not None, START_S)
        yield pod
    finally:
        pod.close()


@pytest.fixture
def http(pod: Pod) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=pod.url, timeout=60) as client:
        yield client
