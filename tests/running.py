"""A whole Baton as a newcomer starts it: `baton up` in a process of its own, on a port that was free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from baton.state.embedded import free_port

START_S = 110.0
"""A loaded machine takes its time to import torch five times."""
STOP_S = 45.0


class Running:
    """Use as `with`. `log` is what it has written so far."""

    def __init__(self, *words: str, settings: Mapping[str, str] | None = None) -> None:
        """`settings`: for its environment."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._out = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in `close`
        command = [
            sys.executable,
            "-m",
            "baton.cli",
            "up",
            "--port",
            str(self.port),
            "--pages",
            "512",
            *words,
        ]
        environ = {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}
        environ |= settings or {}
        self.process = subprocess.Popen(command, stdout=self._out, stderr=subprocess.STDOUT, env=environ)

    def __enter__(self) -> Running:
        try:
            self.until(lambda: "Baton answers on" in self.log, START_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def log(self) -> str:
        self._out.flush()
        return os.pread(self._out.fileno(), 1 << 24, 0).decode(errors="replace")

    def until(self, true: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"it has ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"waited {seconds} s in vain:\n{self.log}"
            time.sleep(0.05)

    def family(self) -> dict[int, str]:
        """Every process that it or any of its processes started: id → command line."""
        parents: dict[int, int] = {}
        commands: dict[int, str] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                commands[int(stat.parent.name)] = (stat.parent / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(stat.parent.name)] = int(fields[1])
        found, fresh = set[int](), {self.process.pid}
        while fresh:
            found |= fresh
            fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        return {pid: commands[pid] for pid in found - {self.process.pid}}

    def pid(self, pod: str) -> int:
        return next(pid for pid, words in self.family().items() if f"--pod.id {pod} " in words)

    @contextmanager
    def unattended(self) -> Iterator[None]:
        """The one that starts pods again stands still meanwhile; the pods go on."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def workers(self) -> dict[str, str]:
        """Live pods as the router knows them: id → incarnation."""
        told = httpx.get(f"{self.url}/debug/fleet", timeout=10).json()
        return {one["id"]: one["incarnation"] for one in told["workers"]}

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._out.close()
