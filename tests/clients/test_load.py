"""The Locust users of `loadtest/`, against a whole Baton, as they are run by hand and by the chart's Job.

Locust lives in the environment beside the project's that `make clients` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.clients.test_clients import PYTHON
from tests.running import Running

ROOT = Path(__file__).parents[2]
USERS = ROOT / "loadtest" / "locustfile.py"
SECONDS = 3
RATE = 60
"""Requests a second: a run without a burst is out of the question."""


def _load(url: str, folder: Path, **settings: str) -> dict[str, Any]:
    """What the users say at their end."""
    locust = PYTHON.parent / "locust"
    if not locust.is_file():
        pytest.skip(f"no Locust here: {locust} is missing; `make clients` installs it")
    environ = {**os.environ, **settings, "BATON_LOAD_REPORT": str(folder / "report.json")}
    environ.pop("PYTHONPATH", None)
    command = [
        locust,
        "--locustfile",
        USERS,
        "--host",
        url,
        "--headless",
        "--only-summary",
        "--stop-timeout",
        "30",
    ]
    command += [
        "--users",
        "4",
        "--spawn-rate",
        "4",
        "--run-time",
        f"{SECONDS}s",
        "--html",
        folder / "report.html",
    ]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=environ, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert all(f"{what} " in done.stdout + done.stderr for what in ("TTFT", "ITL", "TOKENS", "POST"))
    assert "<html" in (folder / "report.html").read_text()
    told: dict[str, Any] = json.loads((folder / "report.json").read_text())["baton_load"]
    assert json.dumps({"baton_load": told}) in done.stdout
    return told


def test_users_talk_and_are_measured(running: Running, tmp_path: Path) -> None:
    told = _load(running.url, tmp_path)
    assert told["failures"] == 0 and told["requests"] == told["tokens"]["count"] == told["e2e"]["count"] > 0
    assert 0 < told["ttft"]["p50"] <= told["ttft"]["p90"] <= told["ttft"]["p99"]
    assert told["itl"]["count"] > 0 and told["tokens"]["p50"] > 1


@pytest.mark.parametrize("shape", ["steady", "burst"])
def test_arrivals_come_by_the_clock(running: Running, tmp_path: Path, shape: str) -> None:
    told = _load(
        running.url, tmp_path, BATON_LOAD_RATE=str(RATE), BATON_LOAD_SHAPE=shape, BATON_LOAD_MIX="shared=1"
    )
    begun = told["requests"] + told.get("overrun", {"count": 0})["count"]
    assert told["failures"] == 0 and told["requests"] > 0
    if shape == "steady":  # chance decides about bursts
        assert begun <= RATE * (SECONDS + 1)
