"""The Locust users of `loadtest/`, against a whole Baton, as they are run by hand and by the chart's Job.

Locust lives in the environment beside the project's that `make clients` makes.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


def _load(url: str, folder: Path, *, status: int = 0, **settings: str) -> dict[str, Any]:
    """What the users say at their end; Locust ends with 1 where anything failed."""
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
    assert done.returncode == status, done.stderr[-2000:] + done.stdout[-2000:]
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


def test_the_same_messages_have_the_same_answer(running: Running, tmp_path: Path) -> None:
    settings = {"BATON_LOAD_COMPARE": "1", "BATON_LOAD_MIX": "shared=1", "BATON_LOAD_RATE": "30"}
    told = _load(running.url, tmp_path, **settings)
    assert told["failures"] == 0 and told["compared"] > 0


class Fickle(BaseHTTPRequestHandler):
    """Never says the same twice."""

    said = itertools.count()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        pieces = [{"choices": [{"delta": {"content": word}}]} for word in ("word ", str(next(self.said)))]
        events = [*map(json.dumps, pieces), "[DONE]"]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write("".join(f"data: {one}\n\n" for one in events).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def test_another_answer_to_the_same_messages_is_a_failure(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Fickle) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        settings = {"BATON_LOAD_MIX": "shared=1", "BATON_LOAD_RATE": "30"}
        told = _load(url, tmp_path, BATON_LOAD_COMPARE="1", **settings, status=1)
        server.shutdown()
    assert told["failures"] == told["compared"] > 0


@pytest.mark.parametrize("shape", ["steady", "burst"])
def test_arrivals_come_by_the_clock(running: Running, tmp_path: Path, shape: str) -> None:
    told = _load(
        running.url, tmp_path, BATON_LOAD_RATE=str(RATE), BATON_LOAD_SHAPE=shape, BATON_LOAD_MIX="shared=1"
    )
    begun = told["requests"] + told.get("overrun", {"count": 0})["count"]
    assert told["failures"] == 0 and told["requests"] > 0
    if shape == "steady":  # chance decides about bursts
        assert begun <= RATE * (SECONDS + 1)
