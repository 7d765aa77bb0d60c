"""Listens and serves one application with uvicorn, as one collaborator among others of a process.

uvicorn would own the process: take its signals, exit when a port is taken. Here a service's `__main__`
does that: it binds first (so that a taken port fails before anything is loaded), serves, and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from baton.core.errors import InvalidSetting
from baton.http.connection import Connection
from baton.http.settings import HttpSettings

BACKLOG = 2048
FLUSH_S = 2
"""How long connections may take to read their last answers when the server stops."""


class HttpServer:
    """Use as `async with HttpServer(app, settings) as server`: listening inside, stopped after."""

    def __init__(
        self,
        app: ASGIApp,
        settings: HttpSettings,
        port: int | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        """`port` where it is another than the settings' first; `listening` where a socket listens already,
        shared by several processes."""
        self._socket = listening or listen(settings.host, settings.port if port is None else port)
        self.port: int = self._socket.getsockname()[1]
        self.ended = asyncio.Event()
        """Set when it serves no more, also by a fault of its own."""
        protocol = functools.partial(Connection, settings=settings)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=protocol,  # type: ignore[arg-type]  # wants a class, calls it
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=FLUSH_S,
            )
        )

    async def __aenter__(self) -> HttpServer:
        self._serving = asyncio.create_task(self._serve(), name="http")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.should_exit = True
        await self._serving

    def let_go(self) -> None:
        """Close connections on which nothing is asked, and each of the others behind its answer: clients that
        keep one for their next request are to ask somebody else. New ones are still heard."""
        for connection in tuple(self._server.server_state.connections):
            connection.shutdown()

    async def _serve(self) -> None:
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self.ended.set()

    def __repr__(self) -> str:
        return f"<HttpServer port {self.port}: {len(self._server.server_state.connections)} connections>"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; InvalidSetting when it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidSetting("http", f"cannot listen on {host}:{port}: {error.strerror or error}") from error
