"""Connections to all pods, kept for the next request.

`async with pool.lend(origin) as connection`: open inside; afterwards kept, if its answer was read to the
end, or closed at once, which tells the pod to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

from baton.core.errors import InvalidField, Unreached
from baton.router.wire.connection import Connection

CONNECT_S = 2.0
IDLE_KEPT = 256
"""Open connections per pod that wait for work."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3),
             (socket.TCP_USER_TIMEOUT, 10_000))  # fmt: skip
"""A host that vanished without a word is noticed within about ten seconds."""


class Origin(NamedTuple):
    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def origin_of(url: str) -> Origin:
    """Of `http://host:port`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidField("url", f"{url!r} is no http://host:port: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidField("url", f"{url!r} is no http://host:port")
    tls = parts.scheme == "https"
    return Origin(parts.hostname, port or (443 if tls else 80), tls)


class Pool:
    """One per router. `close` at the end."""

    def __init__(self, tls: ssl.SSLContext | None = None, connect_s: float = CONNECT_S) -> None:
        self._tls = tls
        self._connect_s = connect_s
        self._idle: dict[Origin, list[Connection]] = {}
        self._lent: dict[Origin, set[Connection]] = {}

    def __repr__(self) -> str:
        return f"Pool({sum(map(len, self._idle.values()))} idle, {sum(map(len, self._lent.values()))} lent)"

    @contextlib.asynccontextmanager
    async def lend(self, origin: Origin, *, fresh: bool = False) -> AsyncIterator[Connection]:
        connection = (None if fresh else self._kept(origin)) or await self._connect(origin)
        lent, kept = self._lent.setdefault(origin, set()), self._idle.setdefault(origin, [])
        lent.add(connection)
        try:
            yield connection
        finally:
            lent.discard(connection)
            known = self._idle.get(origin) is kept  # else the pod was forgotten meanwhile
            if known and connection.reusable and len(kept) < IDLE_KEPT:
                kept.append(connection)
            else:
                connection.abort()
            if not lent:
                del self._lent[origin]
                if not self._idle.get(origin, True):
                    del self._idle[origin]

    def forget(self, origin: Origin, reason: str = "") -> None:
        """The pod is gone: close what is idle; with a reason, also what is in use."""
        for connection in self._idle.pop(origin, ()):
            connection.abort()
        if reason:
            for connection in tuple(self._lent.get(origin, ())):
                connection.abort(reason)
        if not self._lent.get(origin):
            self._lent.pop(origin, None)

    def close(self) -> None:
        for origin in {*self._idle, *self._lent}:
            self.forget(origin, "the router stops")

    def _kept(self, origin: Origin) -> Connection | None:
        """The one that was used last: the others may be closed by the pod when they are not needed."""
        kept = self._idle.get(origin, [])
        while kept:
            connection = kept.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        tls = (self._tls or ssl.create_default_context()) if origin.tls else None
        try:
            async with asyncio.timeout(self._connect_s):
                transport, connection = await loop.create_connection(
                    Connection, origin.host, origin.port, ssl=tls
                )
        except TimeoutError as error:
            raise Unreached(f"{origin} does not take connections") from error
        except (OSError, ValueError) as error:  # a name that can be none is the latter
            raise Unreached(f"cannot connect to {origin}: {error}") from error
        _keep_alive(transport)
        return connection


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
