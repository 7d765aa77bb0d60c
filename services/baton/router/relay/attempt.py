"""One attempt at a request on one pod: asks it, and passes on what it answers.

Says how it failed by what it raises: Refused, nothing was done; PeerLost, others should try; anything else is
the pod's answer to the client. What went by before that is in the `EventRelay`, which outlives attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from baton.core.errors import (
    BatonError,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    PeerLost,
    Refused,
    UnknownPath,
    Unreached,
    WrongMethod,
)
from baton.http import Reply
from baton.openai import EventRelay, read_error
from baton.protocol.placed import CONTENT_TYPE, PATH, REFUSED_HEADER
from baton.router.relay.stream import BETWEEN, ERROR, Stream
from baton.router.wire import Connection, Head, Origin, Pool
from baton.trace import HEADER

REFUSED = REFUSED_HEADER.encode()
LONGEST_ANSWER = 1 << 28
LONGEST_ERROR = 1 << 20
TAIL_S = 1.0
"""How long the end of a stream may take after its `[DONE]`."""


class Attempt:
    """`arrived` is called with each piece that comes, before it is passed on."""

    __slots__ = ("_arrived", "_origin", "_pool", "_reply")

    def __init__(self, pool: Pool, origin: Origin, reply: Reply, arrived: Callable[[bytes], None]) -> None:
        self._pool = pool
        self._origin = origin
        self._reply = reply
        self._arrived = arrived

    async def stream(self, message: bytes, relay: EventRelay) -> None:
        """To the end of the stream."""
        lent = self._pool.lend(self._origin)
        while True:
            async with lent as connection:
                head = await self._ask(connection, message)
                if head is None:
                    lent = self._anew()
                    continue
                await self._check(connection, head)
                await self._relay(connection, relay)
                return

    async def whole(self, message: bytes) -> bytes:
        """The whole answer, which the client has not been sent."""
        lent = self._pool.lend(self._origin)
        while True:
            async with lent as connection:
                head = await self._ask(connection, message)
                if head is None:
                    lent = self._anew()
                    continue
                await self._check(connection, head)
                return await connection.read_all(LONGEST_ANSWER)

    @contextlib.asynccontextmanager
    async def _anew(self) -> AsyncIterator[Connection]:
        """A connection in place of a kept one. A pod that takes none now may have died of the request."""
        try:
            async with self._pool.lend(self._origin, fresh=True) as connection:
                yield connection
        except Unreached as error:
            raise PeerLost(f"it was lost with a request; now {error}") from error

    async def _ask(self, connection: Connection, message: bytes) -> Head | None:
        """None when a kept connection turns out to be closed: as a rule nobody read the request."""
        try:
            return await connection.ask(message)
        except PeerLost:
            if connection.requests > 1 and not connection.answered:
                return None
            raise

    async def _check(self, connection: Connection, head: Head) -> None:
        if head.status == 200:
            return
        error = read_error(await connection.read_all(LONGEST_ERROR))
        if REFUSED in head.headers and isinstance(error, Refused):
            raise error
        raise judged(error)

    async def _relay(self, connection: Connection, relay: EventRelay) -> None:
        stream = Stream(connection, relay, self._reply, self._arrived)
        await stream.begin()
        if not stream.over:
            await connection.pour(stream.take)
        if stream.failed:
            await self._failed(stream.last)
        if not relay.done:
            raise PeerLost("the stream ended without [DONE]")
        await self._tail(connection)
        await self._reply.end(stream.last)

    async def _failed(self, events: bytes) -> None:
        """Pass on what came before the error event, and raise what it says."""
        start = 0 if events.startswith(ERROR) else events.find(BETWEEN) + 2
        if start:
            await self._reply.event(events[:start])
        raise judged(read_error(events[start + len(b"data: ") : events.find(b"\n", start)]))

    async def _tail(self, connection: Connection) -> None:
        """So that the connection can be kept; closing it would do as well."""
        if not connection.reusable:
            try:
                async with asyncio.timeout(TAIL_S):
                    await connection.read()
            except (TimeoutError, PeerLost):
                return


def judged(error: BatonError) -> BatonError:
    """As it is, if another pod would say the same or the client has gone; else PeerLost."""
    final = isinstance(error, (InvalidRequest, Cancelled, DeadlineExceeded))
    if final and not isinstance(error, (UnknownPath, WrongMethod)):  # a pod of another release
        return error
    lost = PeerLost(f"{error.code}: {error}")
    lost.__cause__ = error
    return lost


def head_of(origin: Origin, id: str, deadline_s: float, length: int, trace: str = "") -> bytes:
    """The head of a placed request; `trace` is its `traceparent`, if it has one."""
    traced = f"{HEADER}: {trace}\r\n" if trace else ""
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: {origin}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {length}\r\nx-request-id: {id}\r\n{traced}"
        f"x-baton-deadline-ms: {max(1, int(deadline_s * 1000))}\r\n\r\n"
    ).encode()
