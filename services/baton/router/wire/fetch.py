"""One small GET: probes, leases, lists. Not for the path of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from baton.core.errors import PeerLost
from baton.router.wire.connection import Head
from baton.router.wire.pool import Origin, Pool


def get(origin: Origin, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole GET request."""
    lines = [f"GET {path} HTTP/1.1", f"host: {origin}", "accept: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def fetch(
    pool: Pool,
    origin: Origin,
    path: str,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    most: int = 1 << 24,
) -> tuple[Head, bytes]:
    """The answer, whatever its status; PeerLost when there is none in time."""
    try:
        async with asyncio.timeout(seconds), pool.lend(origin, fresh=True) as connection:
            head = await connection.ask(get(origin, path, {**(headers or {}), "connection": "close"}))
            return head, await connection.read_all(most)
    except TimeoutError as error:
        raise PeerLost(f"{origin} did not answer {path} within {seconds:g} seconds") from error
