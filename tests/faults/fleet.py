"""Prefill and decode pods as a cluster would run them: processes of their own, met over HTTP alone.

Nothing here reaches into a pod. What a pod holds is read from /metrics, what it costs from /proc.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.spawned import await_true, samples

from baton.tiny import model_path

START_S = 90.0
ENGINE = ("--engine.pages", "700", "--engine.threads", "1", "--engine.prefill_budget", "64")
HANDOFF = ("--handoff.local_below", "8", "--handoff.timeout_s", "20")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pod:
    """One pod. It can be killed and started again: the same addresses, another incarnation."""

    def __init__(self, module: str, port: int, words: Sequence[str], log: Path) -> None:
        self.port = port
        self.log = log
        self._command = [sys.executable, "-m", module, "--engine.model", str(model_path()), *ENGINE, *words]
        self._command += ["--http.host", "127.0.0.1", "--http.port", str(port)]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}
        with self.log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, env=environ)

    @property
    def ready(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.tail()}"
        try:
            return self.http.get("/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def await_ready(self) -> None:
        await_true(lambda: self.ready, START_S)

    def metrics(self) -> dict[str, float]:
        return samples(self.http.get("/metrics", timeout=10).text)

    def metric(self, name: str) -> float:
        """The sum over its labels."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)

    def processes(self) -> list[int]:
        """Its own process and its ranks'."""
        found = [self.process.pid]
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    found.append(int(stat.parent.name))
            except (OSError, IndexError):
                continue
        return found

    @property
    def ranks(self) -> list[int]:
        return [
            pid
            for pid in self.processes()[1:]
            if b"baton.engine.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def kill(self) -> None:
        """As a machine dies: front and ranks at once."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def restart(self) -> None:
        self.process = self._spawn()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.http.close()


class DecodePod(Pod):
    def complete(self, prompt: str, max_tokens: int, **more: Any) -> str:
        answer = self.http.post("/v1/completions", json=body(prompt, max_tokens, **more))
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["text"]
        return text

    def held(self) -> dict[str, float]:
        """What it holds for requests; empty when it is clean."""
        found = self.metrics()
        names = (
            "baton_running", "baton_waiting", "baton_pages{state=used}", "baton_handoff_inflight",
            "baton_fenced_pages",
        )  # fmt: skip
        return {name: found[name] for name in names if found[name]}


class PrefillPod(Pod):
    def held(self) -> dict[str, float]:
        found = self.metrics()
        names = ("baton_legs_open", "baton_waiting", "baton_pages{state=used}")
        return {name: found[name] for name in names if found[name]}


def body(prompt: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    greedy = {"model": "tiny", "temperature": 0, "ignore_eos": True}
    return {**greedy, "prompt": prompt, "max_tokens": max_tokens, **more}


@dataclass
class Fleet:
    prefills: list[PrefillPod] = field(default_factory=list)
    decodes: list[DecodePod] = field(default_factory=list)

    @property
    def pods(self) -> list[Pod]:
        return [*self.prefills, *self.decodes]

    def whole(self) -> bool:
        """Whether all are ready and know each other."""
        return all(pod.ready for pod in self.pods) and all(
            pod.metric("baton_decode_workers") == len(self.decodes) for pod in self.prefills
        )

    def mend(self) -> None:
        """Start what has died, and wait until all know each other again."""
        for pod in self.pods:
            if pod.process.poll() is not None:
                pod.restart()
        await_true(self.whole, START_S)

    def await_clean(self, seconds: float) -> float:
        """Until no living pod holds anything; how long it took."""
        began = time.monotonic()
        living = [pod for pod in [*self.prefills, *self.decodes] if pod.process.poll() is None]
        while left := {pod.port: held for pod in living if (held := pod.held())}:
            assert time.monotonic() - began < seconds, left
            time.sleep(0.05)
        return time.monotonic() - began


@contextmanager
def running(directory: Path, prefill: int = 1, decode: int = 1, *words: str) -> Iterator[Fleet]:
    """`words`: settings of the decode pods."""
    fleet = Fleet()
    try:
        legs = [f"tcp://127.0.0.1:{free_port()}" for _ in range(prefill)]
        for i, leg in enumerate(legs):
            log = directory / f"prefill-{i}.log"
            fleet.prefills.append(PrefillPod("baton.prefill", free_port(), ["--listen", leg], log))
        flags = ["--role", "decode", "--names", "tiny", "--handoff.prefill", ",".join(legs), *HANDOFF, *words]
        for i in range(decode):
            fleet.decodes.append(DecodePod("baton.decode", free_port(), flags, directory / f"decode-{i}.log"))
        await_true(fleet.whole, START_S)
        yield fleet
    finally:
        for pod in fleet.pods:
            pod.process.terminate()
        for pod in fleet.pods:
            pod.close()


def freeze(pid: int) -> None:
    """Until it stands still: on a busy machine its threads go on for a while after the signal, and one that
    sees its parent gone would end it."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    await_true(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 10)


def until(true: Callable[[], bool], seconds: float) -> float:
    """How long it took to come true."""
    began = time.monotonic()
    await_true(true, seconds)
    return time.monotonic() - began
