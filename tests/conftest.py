"""What holds for every test: models here are so small that a second thread would only wait for the first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # pytest's plugin would import it late, which CPython 3.11 may fail at
import pytest
from tests.running import Running

# A busy machine may take any time for an example.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
# Before any test imports torch; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """One whole Baton for all tests that leave it as they found it; Ctrl-C ends it and leaves nothing."""
    with Running("--prefill", "1", "--decode", "2") as running:
        yield running
        family = running.family()
        assert running.stop() == 0
        left = [words for pid, words in family.items() if Path(f"/proc/{pid}").exists()]
        assert left == []
