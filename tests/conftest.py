"""What holds for every test: models here are so small that a second thread would only wait for the first."""

from __future__ import annotations

import os

# Before any test imports torch; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
