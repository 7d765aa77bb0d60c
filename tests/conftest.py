"""What holds for every test: models here are so small that a second thread would only wait for the first."""

from __future__ import annotations

import os

import hypothesis  # noqa: F401  # pytest's plugin would import it late, which CPython 3.11 may fail at

# Before any test imports torch; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
