"""Four pods for all tests here, and one engine that needs no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.fleet import Fleet, running

from baton.engine import LLM
from baton.tiny import model_path


@pytest.fixture(scope="package")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("fleet"), 2, 2) as made:
        yield made


@pytest.fixture
def fleet(pods: Fleet) -> Fleet:
    """With all pods alive and acquainted, whatever the test before did to them."""
    pods.mend()
    return pods


@pytest.fixture(scope="package")
def alone() -> Iterator[LLM]:
    with LLM(str(model_path()), pages=2000, threads=1) as llm:
        yield llm
