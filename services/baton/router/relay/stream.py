"""One stream while it goes by: whole events from a pod's connection straight to the client's socket.

The first events begin the answer; from then on each piece costs one call, without a task or a message.
A client that does not keep up holds the pod's connection.
"""

from __future__ import annotations

from collections.abc import Callable

from baton.core.errors import PeerLost
from baton.http import Reply
from baton.openai import EventRelay
from baton.router.wire import GO, HOLD, STOP, Connection, Flow

ERROR = b'data: {"error"'
"""No text of an answer can hold this: quotes inside JSON are escaped."""
BETWEEN = b"\n\n" + ERROR


class Stream:
    """`begin`, then `take` as the sink of its connection, until `over`."""

    __slots__ = ("_arrived", "_connection", "_relay", "_reply", "_straight", "failed", "last", "over")

    def __init__(
        self, connection: Connection, relay: EventRelay, reply: Reply, arrived: Callable[[bytes], None]
    ) -> None:
        assert reply.straight is not None, "this server offers no straight way"
        self._connection = connection
        self._relay = relay
        self._reply = reply
        self._straight = reply.straight
        self._arrived = arrived
        self.over = False
        """The stream's end, or an error event, has come; `last` waits to be passed on."""
        self.failed = False
        self.last = b""

    async def begin(self) -> None:
        """The first events, which begin the client's answer where no pod before did."""
        while not self.over:
            data = await self._connection.read()
            if not data:
                raise PeerLost("the stream ended before it began")
            events = self._events(data)
            if self.over and (self._reply.status or self.failed):
                return
            if self.over:
                events, self.last = self.last, b""
            if events:
                await self._reply.event(events)
                return

    def take(self, data: bytes) -> Flow:
        events = self._events(data)
        if self.over:
            return STOP
        if events and not self._straight.write(events):
            self._straight.when_writable(self._connection.go_on)
            return HOLD
        return GO

    def _events(self, data: bytes) -> bytes:
        """What of it may be passed on now."""
        self._arrived(data)
        relay = self._relay
        events = relay.feed(data)
        if relay.done:
            self.over, self.last = True, events
        elif ERROR in events and (events.startswith(ERROR) or BETWEEN in events):
            self.over, self.failed, self.last = True, True, events
        return events
