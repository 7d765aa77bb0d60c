"""The short way to a client's socket, for the middle of a stream: no coroutine and no message per piece.

The server puts one into each request's scope. Whoever answers begins the stream the usual way, writes pieces
here, and ends the usual way. It frames them as HTTP/1.1 chunks, which is what a stream without a length is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Scope

EXTENSION = "baton.straight"


class Straight:
    """One per connection; used by whichever request is being answered."""

    __slots__ = ("_paused", "_transport", "_waiting", "framed")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.framed = True
        """False while the client is one of HTTP/1.0, which knows no chunks."""
        self._transport = transport
        self._paused = False
        self._waiting: Callable[[], None] | None = None

    def write(self, data: bytes) -> bool:
        """Send a piece that is not empty. False: the client does not keep up, so wait before the next."""
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.framed else data)
        return not self._paused

    def when_writable(self, call: Callable[[], None]) -> None:
        """Call once when the client has caught up, or has gone."""
        self._waiting = call

    def paused(self) -> None:
        self._paused = True

    def resumed(self) -> None:
        self._paused = False
        if self._waiting is not None:
            call, self._waiting = self._waiting, None
            call()


def straight_of(scope: Scope) -> Straight | None:
    found: Straight | None = scope.get("extensions", {}).get(EXTENSION)
    return found
