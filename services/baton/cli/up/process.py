"""One service's process: started, its lines passed on, asked how its start goes, ended.

On Linux it is told to end when whoever started it is gone, however that came about, so nothing is left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable

import httpx

from baton.cli.up.choice import Planned

PATIENCE_S = 2.0
KEPT_LINES = 200

# Not in a preexec_fn, which may deadlock in a process with threads.
_LAUNCH = """
import ctypes, os, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

GRAVE = re.compile(r"\b(ERROR|CRITICAL)\b|^\w*(Error|Exception)\b")


class Process:
    def __init__(self, planned: Planned, say: Callable[[str], None]) -> None:
        """`say` takes each line that it writes."""
        self.planned = planned
        self.ready_once = False
        self.restarts = 0
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._echo: asyncio.Task[None] | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)

    def __repr__(self) -> str:
        return f"Process({self.planned.name}, {'running' if self.running else self.status})"

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def status(self) -> int | None:
        return self._process.returncode if self._process else None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> None:
        assert not self.running
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if self.planned.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.planned.gpus)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()),
            sys.executable, "-m", self.planned.module, *self.planned.words,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is for whoever started it
        )  # fmt: skip
        self._echo = asyncio.create_task(self._read(self._process.stdout))

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the reader's limit: what is left of it comes as another
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._lines.append(text)
            self._say(text)

    async def progress(self, http: httpx.AsyncClient) -> str:
        """Empty when it is ready; else how far it is, in words."""
        try:
            answer = await http.get(
                f"http://{self.planned.host}:{self.planned.port}/readyz", timeout=PATIENCE_S
            )
            told = answer.json()
        except (httpx.HTTPError, ValueError):
            return "starting"
        if answer.status_code == 200:
            self.ready_once = True
            return ""
        message = str(told.get("message", "not ready"))
        return message.removeprefix("the worker is not ready: ").removeprefix("starting: ")

    def last_words(self) -> str:
        """The line that says best why it ended."""
        grave = [line for line in self._lines if GRAVE.search(line)]
        return (grave or list(self._lines) or ["it said nothing"])[-1]

    def terminate(self) -> None:
        if self.running:
            assert self._process is not None
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """It and whatever it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit status, once its last line was passed on."""
        assert self._process is not None and self._echo is not None
        status = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):  # what it started may hold its output open
                await self._echo
        return status
