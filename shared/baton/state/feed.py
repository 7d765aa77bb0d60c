"""One reader of prefix events for several processes of one host: it follows Redis, they follow it.

Each listener is sent what every worker holds, then every change as it is read. A listener that does not keep
up is let go: it comes again and begins with what is held then. The listening end is `baton.state.fed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import msgspec

from baton.state.board import LeaseBoard
from baton.state.fleet import Fleet
from baton.state.index import PrefixIndex
from baton.state.link import Link
from baton.state.reader import EventReader

HEAD = struct.Struct("<IQ")
"""Before each message: its length, and its number on this connection, from 0 on without holes."""
TELL_S = 0.2
SILENCE_S = 3.0
"""A feed that has said nothing for so long is taken for lost: it tells how it is every TELL_S."""
BACKLOG_BYTES = 1 << 26
"""Four million identities."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="type"):
    """Both ends are of one installation, so nothing here has a version."""


class Reset(Message, frozen=True, tag=0, array_like=True):
    """The worker holds exactly these, packed."""

    worker: str
    identities: bytes


class Applied(Message, frozen=True, tag=1, array_like=True):
    worker: str
    evicted: bytes
    stored: bytes


class Dropped(Message, frozen=True, tag=2, array_like=True):
    worker: str


class Told(Message, frozen=True, tag=3, array_like=True):
    """How the feed is."""

    progress: dict[str, tuple[str, int, bool]]
    """Of each worker: incarnation, number of the last entry read, whether none before it is missing."""
    read_s: float
    entries: int
    gaps: int
    resyncs: int
    looked: bool
    """It knows who lives: of whom it has not spoken by then, it follows all in `progress` and nobody else."""


FeedMessage = Reset | Applied | Dropped | Told
_encoder = msgspec.msgpack.Encoder()


class _Listener:
    def __init__(self, writer: asyncio.StreamWriter, backlog_bytes: int) -> None:
        self.writer = writer
        self.known: set[str] = set()
        """Workers whose content it has been sent: changes of others come with that."""
        self.whole = False
        """It has been sent the content of all."""
        self._number = 0
        self._backlog_bytes = backlog_bytes

    def send(self, data: bytes) -> None:
        if self.writer.is_closing():
            return
        if self.writer.transport.get_write_buffer_size() > self._backlog_bytes:
            self.writer.transport.abort()
            return
        self.writer.writelines((HEAD.pack(len(data), self._number), data))
        self._number += 1


class IndexFeed:
    """`async with`: follows every worker that has a lease, and serves whoever connects. A `PageMirror`."""

    def __init__(self, link: Link, listening: socket.socket, *, backlog_bytes: int = BACKLOG_BYTES) -> None:
        """`backlog_bytes`: what may wait for a listener."""
        self._backlog_bytes = backlog_bytes
        self.index = PrefixIndex()
        self._board = LeaseBoard(link)
        self._followed: Fleet | None = None
        self._reader = EventReader(link, self)
        self._socket = listening
        self._clock = link.clock
        self._listeners: set[_Listener] = set()
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"IndexFeed({len(self._listeners)} listeners, {self.index!r})"

    async def __aenter__(self) -> Self:
        for part in (self._board, self._reader):
            await self._stack.enter_async_context(part)
        for work in (self._follow(), self._tell()):
            task = asyncio.create_task(work)
            self._stack.callback(task.cancel)
        self._server = await asyncio.start_server(self._serve, sock=self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for one in self._listeners:
            one.writer.transport.abort()
        await self._stack.aclose()

    # ---- what the reader says ----

    def apply(self, worker: str, evicted: bytes, stored: bytes) -> None:
        self.index.apply(worker, evicted, stored)
        if self._listeners:
            data = _encoder.encode(Applied(worker, evicted, stored))
            for one in self._listeners:
                if worker in one.known:
                    one.send(data)

    def reset(self, worker: str, identities: bytes) -> None:
        self.index.reset(worker, identities)
        if self._listeners:
            data = _encoder.encode(Reset(worker, identities))
            for one in self._listeners:
                one.known.add(worker)
                one.send(data)

    def drop(self, worker: str) -> None:
        self.index.drop(worker)
        data = _encoder.encode(Dropped(worker))
        for one in self._listeners:
            one.known.discard(worker)
            one.send(data)

    # ---- listeners ----

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = _Listener(writer, self._backlog_bytes)
        self._listeners.add(one)
        with contextlib.suppress(OSError):
            try:
                while lacking := self.index.pages.keys() - one.known:
                    worker = min(lacking)
                    one.known.add(worker)
                    one.send(_encoder.encode(Reset(worker, self.index.packed(worker))))
                    await writer.drain()
                one.whole = True
                one.send(self._told())
                await reader.read()  # a listener says nothing; this ends when it leaves
            finally:
                self._listeners.discard(one)
                writer.close()

    async def _tell(self) -> None:
        while True:
            await self._clock.sleep(TELL_S)
            data = self._told()
            for one in self._listeners:
                if one.whole:
                    one.send(data)

    def _told(self) -> bytes:
        health = self._reader.health
        progress = {
            worker: (one.incarnation, one.sequence, one.synced)
            for worker, one in self._reader.progress.items()
        }
        looked = self._board.looked and self._followed is self._board.fleet
        return _encoder.encode(
            Told(progress, health.read_s, health.entries, health.gaps, health.resyncs, looked)
        )

    async def _follow(self) -> None:
        async for fleet, _ in self._board.watch():
            self._reader.follow((id, lease.incarnation) for id, lease in fleet.workers.items())
            self._followed = fleet
