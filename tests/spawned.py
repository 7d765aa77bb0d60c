"""A service in a process of its own, as its users meet it: on a real socket, heard by what it logs.

What tests of several services share: `Spawned`, waiting for what must come, reading /metrics.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

START_S = 90.0
"""A loaded machine takes its time to import torch."""
STOP_S = 30.0


class Spawned:
    """`python -m baton.SERVICE`. `log` grows while it runs."""

    def __init__(self, service: str, *flags: str) -> None:
        command = [sys.executable, "-m", f"baton.{service}", *flags]
        environ = {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
        self.log: list[dict[str, Any]] = []
        self.words: list[str] = []
        """Lines that are no JSON."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except json.JSONDecodeError:
                self.words.append(line)

    def said(self, message: str, **fields: Any) -> dict[str, Any] | None:
        """The first line that says this, with these fields."""
        return next(
            (line for line in self.log if line["message"] == message and fields.items() <= line.items()), None
        )

    def await_line(self, message: str, seconds: float = START_S) -> dict[str, Any]:
        await_true(lambda: self.said(message) is not None or self.process.poll() is not None, seconds)
        line = self.said(message)
        assert line is not None, f"ended with {self.process.returncode}: {self.log} {self.words}"
        return line

    @property
    def port(self) -> int:
        port: int = self.await_line("listening")["port"]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        """Its exit status; all that it said is in `log` then."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()


def await_true(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def eventually(fact: Callable[[], bool], seconds: float = 5.0) -> float:
    """How long it took."""
    began = time.monotonic()
    await_true(fact, seconds)
    return time.monotonic() - began


def samples(text: str) -> dict[str, float]:
    """Prometheus text as `name{label=value}` → value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found
