"""One far process for a module's tests, and a near side that every test starts anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.transfer.side import Far, Side


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    side = Far()
    yield side
    side.kill()


@pytest.fixture
def near() -> Iterator[Side]:
    side = Side()
    yield side
    side.close_all()
