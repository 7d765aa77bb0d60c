"""Four pods for all tests here, each of which leaves them whole, and one engine that needs no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.fleet import Fleet, running

from baton.engine import LLM
from baton.tiny import model_path


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("fleet"), 2, 2) as made:
        yield made


@pytest.fixture(scope="package")
def alone() -> Iterator[LLM]:
    with LLM(str(model_path()), pages=2000, threads=1) as llm:
        yield llm
