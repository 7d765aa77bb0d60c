"""The listening end of `baton.state.feed`: keeps one process's index by what the feed of its host sends.

It stands where an `EventReader` would. A feed that is lost is sought again; until it is found, what is known
stays: it is a little stale, and mostly right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from baton.core.clock import Clock
from baton.core.errors import PeerLost
from baton.state.feed import HEAD, SILENCE_S, Applied, Dropped, FeedMessage, Reset, Told
from baton.state.reader import PageMirror, Progress, ReaderHealth

log = logging.getLogger(__name__)

PAUSE_S = 0.1
"""Between two attempts to reach the feed."""
CHUNK_BYTES = 1 << 18
"""Read and applied at a time: a few milliseconds, between which requests are served."""

_decoder: msgspec.msgpack.Decoder[FeedMessage] = msgspec.msgpack.Decoder(FeedMessage)


class FedReader:
    """`async with`."""

    def __init__(self, port: int, mirror: PageMirror, clock: Clock) -> None:
        """`port`: the feed's, on the loopback."""
        self._port = port
        self._mirror = mirror
        self._clock = clock
        self._known: set[str] = set()
        """Workers that the mirror has something of."""
        self._told = Told({}, 0.0, 0, 0, 0, False)
        self._told_at = clock.now()
        self._connected = False
        self._listening: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"FedReader({'fed' if self._connected else 'seeking'}, {len(self._known)} workers)"

    @property
    def progress(self) -> Mapping[str, Progress]:
        return {worker: Progress(*one) for worker, one in self._told.progress.items()}

    @property
    def health(self) -> ReaderHealth:
        told = self._told
        behind = frozenset(worker for worker, (_, _, synced) in told.progress.items() if not synced)
        read_s = told.read_s + self._clock.now() - self._told_at
        return ReaderHealth(read_s, behind, told.entries, told.gaps, told.resyncs)

    def follow(self, workers: Iterable[tuple[str, str]]) -> None:
        """The feed follows all."""

    async def __aenter__(self) -> Self:
        self._listening = asyncio.create_task(self._listen(), name="index feed")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listening is not None, "it was not entered"
        self._listening.cancel()
        await asyncio.wait([self._listening])

    async def _listen(self) -> None:
        while True:
            try:
                await self._connection()
            except (OSError, PeerLost, msgspec.MsgspecError, UnicodeDecodeError) as error:
                if self._connected:
                    log.warning("the index feed is lost and sought again", extra={"cause": str(error)})
                self._connected = False
            await self._clock.sleep(PAUSE_S)

    async def _connection(self) -> None:
        """One, until it is lost, which raises."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await self._read(reader)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        waiting, number = bytearray(), 0
        stale: set[str] | None = set(self._known)
        """Workers that the feed has not spoken of; None once it knows who lives."""
        while True:
            async with asyncio.timeout(SILENCE_S):  # its TimeoutError is an OSError
                data = await reader.read(CHUNK_BYTES)
            if not data:
                raise PeerLost("the feed has ended")
            waiting += data
            at = 0
            while len(waiting) - at >= HEAD.size:
                length, given = HEAD.unpack_from(waiting, at)
                if len(waiting) - at - HEAD.size < length:
                    break
                if given != number:
                    raise PeerLost(f"message {given} of the feed came where {number} was due")
                at += HEAD.size
                message = _decoder.decode(memoryview(waiting)[at : at + length])
                at, number = at + length, number + 1
                stale = self._take(message, stale)
            del waiting[:at]

    def _take(self, message: FeedMessage, stale: set[str] | None) -> set[str] | None:
        mirror = self._mirror
        match message:
            case Applied(worker=worker, evicted=evicted, stored=stored):
                mirror.apply(worker, evicted, stored)
            case Reset(worker=worker, identities=identities):
                mirror.reset(worker, identities)
                self._known.add(worker)
                if stale is not None:
                    stale.discard(worker)
            case Dropped(worker=worker):
                mirror.drop(worker)
                self._known.discard(worker)
            case Told():
                if not self._connected:
                    self._connected = True
                    log.info("the index feed is there", extra={"workers": len(self._known)})
                if not message.looked:
                    return stale
                before, self._told, self._told_at = self._told, message, self._clock.now()
                for worker in stale or ():
                    # One that lives stays as it was known until the feed has read it anew.
                    if not self._same_run(worker, before):
                        mirror.drop(worker)
                        self._known.discard(worker)
                return None
        return stale

    def _same_run(self, worker: str, before: Told) -> bool:
        was, now = before.progress.get(worker), self._told.progress.get(worker)
        return was is not None and now is not None and was[0] == now[0]
