"""Writes one worker's prefix events to its stream in Redis, and its snapshot beside it.

The worker's front process owns one. `append` takes what the engine's cache reports, never waits and never
raises; a background task numbers it and writes it within milliseconds. While Redis is gone events wait
in a bounded buffer. What does not fit is dropped: the numbering then skips one, which every reader
notices, and a snapshot is taken from the engine and written once Redis is back. The same happens when Redis
comes back without what it held.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from redis.exceptions import ResponseError

from baton.core.errors import StateUnreachable
from baton.state.events import (
    FIELD,
    SNAPSHOT_HEAD,
    Frame,
    count,
    pack,
    snapshot_sequence,
    write_entries,
    write_snapshot,
)
from baton.state.link import Command, Link
from baton.state.rounds import Rounds
from baton.tokens.identity import IDENTITY_BYTES

log = logging.getLogger(__name__)

Snapshot = Callable[[], Awaitable[Iterable[bytes]]]
"""The identities (or packs of them) that the cache holds at some moment after the call."""

FLUSH_S = 0.05
"""Between two writes: what comes in between goes together. Each entry costs every router some 0.1 ms."""
CHECK_S = 1.0
"""How often Redis is asked whether it still has what was written."""
SNAPSHOT_S = 30.0
"""Longest that changes wait for a snapshot."""
SNAPSHOT_IDENTITIES = 16_384
"""A snapshot is due after as many changes as pages held, and not before this many."""
SNAPSHOT_DEADLINE_S = 10.0
KEPT_ENTRIES = 4096
"""The stream is cut to about so many entries."""
BUFFER_IDENTITIES = 262_144
"""4 MiB: the most that waits for Redis."""
TTL_S = 60.0
"""What a worker that is gone leaves behind disappears after this."""
TOGETHER = 32
"""Entries sent in one go: 2 MiB at most."""
SLOWEST_BYTES_PER_S = 10e6
"""A large write may take longer than the deadline, in this proportion."""


class _Entry(NamedTuple):
    sequence: int
    data: bytes
    identities: int


@dataclass(frozen=True, slots=True)
class WriterHealth:
    sequence: int
    """Number of the last entry made."""
    sent: int
    """Number of the last entry that Redis has; 0 for none."""
    waiting: int
    """Identities that Redis has not got yet."""
    dropped: int
    """Identities that did not fit the buffer, since the start."""
    snapshots: int
    repairs: int
    """Snapshots written because events were dropped or Redis had lost what it held."""


class EventWriter:
    """`async with`, for as long as the engine runs. One per incarnation."""

    def __init__(
        self,
        link: Link,
        worker: str,
        incarnation: str,
        snapshot: Snapshot,
        *,
        buffer: int = BUFFER_IDENTITIES,
        kept_entries: int = KEPT_ENTRIES,
        check_s: float = CHECK_S,
        snapshot_s: float = SNAPSHOT_S,
    ) -> None:
        self._link = link
        self._clock = link.clock
        self._worker = worker
        self._events = link.keys.events(worker, incarnation)
        self._pages = link.keys.pages(worker, incarnation)
        self._take_snapshot = snapshot
        self._buffer = buffer
        self._kept_entries = kept_entries
        self._check_s = check_s
        self._snapshot_s = snapshot_s

        self._frames: deque[Frame] = deque()
        """Not numbered yet."""
        self._outbox: deque[_Entry] = deque()
        """Numbered, and not acknowledged."""
        self._waiting = 0
        self._sequence = 0
        self._sent = 0
        """Number of the last entry that Redis acknowledged; 0 for none."""
        self._stamps = (0, 0)
        """Sequence numbers of the last two snapshots written, newest last."""
        self._entries_since = 0
        self._identities_since = 0
        self._held = 0
        """Pages in the last snapshot."""
        self._repair = True
        """A snapshot is due, and readers must be told: at the start, after a drop, after a loss."""
        self._snapshot_at = self._clock.now()
        self._checked_at = self._clock.now()
        self._retry_at = self._clock.now()
        self._dropped = 0
        self._snapshots = 0
        self._repairs = -1  # The snapshot at the start repairs nothing.
        self._rounds = Rounds(f"events of {worker}", self._round, self._clock)

    def __repr__(self) -> str:
        return f"EventWriter({self._worker}, sequence {self._sequence}, {self._waiting} waiting)"

    @property
    def sequence(self) -> int:
        """Number of the last entry made; for the lease."""
        return self._sequence

    @property
    def health(self) -> WriterHealth:
        return WriterHealth(
            self._sequence,
            self._sent,
            self._waiting,
            self._dropped,
            self._snapshots,
            max(0, self._repairs),
        )

    def append(self, evicted: Iterable[bytes], stored: Iterable[bytes]) -> None:
        """One batch, in the cache's order: evictions leaves first, then stored pages parents first. Each may
        be identities or packs of them."""
        frame = pack(evicted), pack(stored)
        size = count(frame)
        if not size:
            return
        if self._waiting + size > self._buffer:
            self._drop(size)
            return
        self._frames.append(frame)
        self._waiting += size
        self._rounds.wake()

    def _drop(self, size: int) -> None:
        """Readers cannot be kept up to date any more; they will start again from a snapshot."""
        if not self._dropped:
            log.warning("prefix events do not fit their buffer", extra={"identities": self._waiting + size})
        self._dropped += self._waiting + size
        self._frames.clear()
        self._outbox.clear()
        self._waiting = 0
        # Nobody will ever see this number: that is how readers know.
        self._sequence += 1
        self._repair = True

    async def __aenter__(self) -> Self:
        self._rounds.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The engine's pages go with it, so nothing is left to write; what is there is cleared away."""
        await self._rounds.close()
        try:
            await self._link.ask("UNLINK", self._events)
            await self._link.ask("UNLINK", self._pages)
        except StateUnreachable:
            log.info("left prefix events behind; they expire", extra={"ttl_s": TTL_S})

    async def _round(self) -> float:
        if self._clock.now() - self._checked_at >= self._check_s:
            await self._check()
        if self._due():
            await self._write_snapshot()
        self._number()
        if self._outbox:
            await self._send()
            await self._clock.sleep(FLUSH_S)
        return max(FLUSH_S, self._checked_at + self._check_s - self._clock.now())

    def _due(self) -> bool:
        return self._clock.now() >= self._retry_at and (
            self._repair
            or self._entries_since >= self._kept_entries // 2
            or self._identities_since >= max(SNAPSHOT_IDENTITIES, self._held)
            or (self._entries_since > 0 and self._clock.now() - self._snapshot_at >= self._snapshot_s)
        )

    async def _write_snapshot(self) -> None:
        """Whatever was numbered so far is in it; whatever comes later is replayed on top by its readers."""
        repair, stamp, dropped = self._repair, self._sequence, self._dropped
        try:
            async with asyncio.timeout(SNAPSHOT_DEADLINE_S):
                identities = pack(await self._take_snapshot())
        except Exception:
            # Events still go out meanwhile: readers that are up to date stay so.
            log.exception("no snapshot of the prefix cache", extra={"worker": self._worker})
            self._retry_at = self._clock.now() + self._check_s
            return
        data = write_snapshot(stamp, identities)
        # Readers that lag a little still find their place: one snapshot's worth of entries stays.
        oldest = min(self._stamps[1], self._sent)
        commands: list[Command] = [
            ("SET", self._pages, data, "PX", round(TTL_S * 1000)),
            ("XTRIM", self._events, "MINID", f"{oldest}-0"),
        ]
        await self._link.ask_all(commands, wait_s=len(data) / SLOWEST_BYTES_PER_S)
        self._stamps = (self._stamps[1], stamp)
        self._held = len(identities) // IDENTITY_BYTES
        self._entries_since = self._identities_since = 0
        self._snapshot_at = self._clock.now()
        self._snapshots += 1
        if repair:
            self._repairs += 1
            # Something was dropped again meanwhile: then this one is no repair.
            self._repair = self._dropped != dropped
            if not self._frames and not self._outbox:
                # An empty entry, so that readers who wait for the next one see that they missed some.
                self._make(b"", 0)

    def _number(self) -> None:
        frames = list(self._frames)
        self._frames.clear()
        for data, identities in write_entries(frames):
            self._make(data, identities)

    def _make(self, data: bytes, identities: int) -> None:
        self._sequence += 1
        self._outbox.append(_Entry(self._sequence, data, identities))

    async def _send(self) -> None:
        while self._outbox:
            entries = [self._outbox[at] for at in range(min(TOGETHER, len(self._outbox)))]
            commands: list[Command] = [
                (
                    "XADD",
                    self._events,
                    "MAXLEN",
                    "~",
                    self._kept_entries,
                    f"{one.sequence}-0",
                    FIELD,
                    one.data,
                )
                for one in entries
            ]
            # At once: a worker that is killed before the next check would leave the stream for ever.
            commands.append(("PEXPIRE", self._events, round(TTL_S * 1000)))
            size = sum(len(one.data) for one in entries)
            *replies, _ = await self._link.ask_all(
                commands, wait_s=size / SLOWEST_BYTES_PER_S, keep_errors=True
            )
            for one, reply in zip(entries, replies, strict=True):
                self._acknowledge(one, reply)

    def _acknowledge(self, entry: _Entry, reply: object) -> None:
        # An id that is not above the last one was written before, by an attempt whose answer was lost.
        if isinstance(reply, Exception) and not (
            isinstance(reply, ResponseError) and "equal or smaller" in str(reply)
        ):
            raise StateUnreachable(f"XADD: {reply}") from reply
        if not self._outbox or self._outbox[0] is not entry:
            return  # Dropped meanwhile.
        self._outbox.popleft()
        self._waiting -= entry.identities
        self._sent = entry.sequence
        self._entries_since += 1
        self._identities_since += entry.identities

    async def _check(self) -> None:
        """Keep what was written from expiring, and see that it is still what was written."""
        ttl_ms = round(TTL_S * 1000)
        head, last, *_ = await self._link.ask_all(
            [
                ("GETRANGE", self._pages, 0, SNAPSHOT_HEAD - 1),
                ("XRANGE", self._events, f"{self._sent}-0", "+", "COUNT", 1),
                ("PEXPIRE", self._pages, ttl_ms),
                ("PEXPIRE", self._events, ttl_ms),
            ]
        )
        self._checked_at = self._clock.now()
        if self._repair:
            return
        if snapshot_sequence(head) != self._stamps[1] or not last:
            log.info("Redis lost prefix events; writing them anew", extra={"worker": self._worker})
            self._repair = True
