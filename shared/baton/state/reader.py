"""Follows the prefix events of all workers into an index, through one connection.

A router's mirror owns one and tells it whom to follow. Each worker is read from its snapshot on; entries are
numbered without holes, so an entry that does not follow the last one means that some were missed, and the
worker is read from its snapshot again. What is known of it meanwhile stays: it is a little stale, and
mostly right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from baton.core.errors import ProtocolMismatch
from baton.state.address import LONGEST_BLOCK_S
from baton.state.events import FIELD, read_entry, read_snapshot
from baton.state.link import Command, Link
from baton.state.rounds import Rounds

log = logging.getLogger(__name__)

BLOCK_S = 0.2
"""Longest wait for an entry: a worker that is followed from now on is read within this time."""
POLL_S = 0.05
"""Between two readings where Redis cannot wait for entries (a cluster), or nobody is followed."""
ENTRIES_AT_ONCE = 16
"""Per worker and reading."""
RESYNC_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0
SNAPSHOT_WAIT_S = 2.0
"""More than the deadline, for the megabytes of a snapshot."""


class PageMirror(Protocol):
    """Where the pages of each worker are noted (`PrefixIndex`); identities are packed."""

    def apply(self, worker: str, evicted: bytes, stored: bytes) -> None: ...

    def reset(self, worker: str, identities: bytes) -> None: ...

    def drop(self, worker: str) -> None: ...


@dataclass(slots=True)
class _Followed:
    worker: str
    incarnation: str
    events: str
    pages: str
    sequence: int = 0
    """Number of the last entry that is in the mirror."""
    loaded: bool = False
    """A snapshot has been read."""
    synced: bool = False
    retry_at: float = 0.0
    pause_s: float = RESYNC_PAUSE_S


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one worker has been read."""

    incarnation: str
    sequence: int
    """Number of the last entry read; the lease tells the last one written."""
    synced: bool
    """No entry before that one is missing."""


@dataclass(frozen=True, slots=True)
class ReaderHealth:
    read_s: float
    """Seconds since entries were last asked for and none of them failed to come."""
    behind: frozenset[str]
    """Workers that wait for a snapshot: what is known of them may be wrong."""
    entries: int
    gaps: int
    """Times that entries were missing."""
    resyncs: int
    """Snapshots read."""


class EventReader:
    """`async with`; `follow` whenever the fleet changes."""

    def __init__(self, link: Link, mirror: PageMirror, *, block_s: float = BLOCK_S) -> None:
        self._link = link
        self._clock = link.clock
        self._mirror = mirror
        self._block_s = min(block_s, LONGEST_BLOCK_S)
        self._followed: dict[str, _Followed] = {}
        self._read_at = self._clock.now()
        self._entries = 0
        self._gaps = 0
        self._resyncs = 0
        self._rounds = Rounds("prefix events", self._round, self._clock)

    def __repr__(self) -> str:
        behind = len(self.health.behind)
        return f"EventReader({len(self._followed)} workers, {behind} behind, {self._entries} entries)"

    @property
    def progress(self) -> Mapping[str, Progress]:
        return {
            worker: Progress(one.incarnation, one.sequence, one.synced)
            for worker, one in self._followed.items()
        }

    @property
    def health(self) -> ReaderHealth:
        behind = frozenset(worker for worker, one in self._followed.items() if not one.synced)
        return ReaderHealth(
            self._clock.now() - self._read_at, behind, self._entries, self._gaps, self._resyncs
        )

    def follow(self, workers: Iterable[tuple[str, str]]) -> None:
        """(worker, incarnation) of all who live now. The pages of all others, and of earlier incarnations,
        are forgotten at once."""
        wanted = dict(workers)
        for worker, one in list(self._followed.items()):
            if wanted.get(worker) != one.incarnation:
                del self._followed[worker]
                self._mirror.drop(worker)
        for worker, incarnation in wanted.items():
            if worker not in self._followed:
                keys = self._link.keys
                self._followed[worker] = _Followed(
                    worker,
                    incarnation,
                    keys.events(worker, incarnation),
                    keys.pages(worker, incarnation),
                )
                self._rounds.wake()

    async def __aenter__(self) -> Self:
        self._rounds.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rounds.close()

    async def _round(self) -> float:
        now = self._clock.now()
        for one in [one for one in self._followed.values() if not one.synced and one.retry_at <= now]:
            if self._current(one):
                await self._resync(one)
        reading = {one.events: one for one in self._followed.values() if one.synced}
        if not reading:
            if not self._followed:
                self._read_at = now
            return POLL_S
        replies = await (self._poll(reading) if self._link.clustered else self._block(reading))
        self._read_at = self._clock.now()
        for name, entries in replies:
            await self._take(reading[name.decode()], entries)
        return POLL_S if self._link.clustered else 0.0

    def _current(self, one: _Followed) -> bool:
        """Still followed: `follow` may have been called while Redis was asked."""
        return self._followed.get(one.worker) is one

    async def _resync(self, one: _Followed) -> None:
        """Start again from the snapshot, if there is one that is not older than what is known."""
        data = await self._link.ask("GET", one.pages, wait_s=SNAPSHOT_WAIT_S)
        if not self._current(one):
            return
        one.retry_at = self._clock.now() + one.pause_s
        one.pause_s = min(2 * one.pause_s, LONGEST_PAUSE_S)
        if data is None:
            return
        try:
            sequence, identities = read_snapshot(data)
        except ProtocolMismatch as error:
            log.error("a snapshot cannot be read", extra={"worker": one.worker, "cause": str(error)})
            return
        if one.loaded and sequence < one.sequence:
            return
        self._mirror.reset(one.worker, identities)
        one.sequence, one.loaded, one.synced = sequence, True, True
        self._resyncs += 1

    async def _block(self, reading: Mapping[str, _Followed]) -> list[Any]:
        """Entries of any stream, once there are some."""
        positions = [f"{one.sequence}-0" for one in reading.values()]
        block_ms = max(1, round(self._block_s * 1000))
        head = ("XREAD", "COUNT", ENTRIES_AT_ONCE, "BLOCK", block_ms, "STREAMS")
        return await self._link.ask(*head, *reading, *positions, wait_s=self._block_s) or []

    async def _poll(self, reading: Mapping[str, _Followed]) -> list[Any]:
        """The same where each stream may lie on another server."""
        commands: list[Command] = [
            ("XREAD", "COUNT", ENTRIES_AT_ONCE, "STREAMS", key, f"{one.sequence}-0")
            for key, one in reading.items()
        ]
        return [stream for reply in await self._link.ask_all(commands) for stream in reply or []]

    async def _take(self, one: _Followed, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> None:
        for id, fields in entries:
            if not self._current(one):
                return
            sequence = int(id.partition(b"-")[0])
            if sequence <= one.sequence:
                continue
            frames = None
            if sequence == one.sequence + 1:
                frames = self._decode(one, fields)
            if frames is None:
                self._gaps += 1
                one.synced, one.retry_at = False, self._clock.now()
                return
            for evicted, stored in frames:
                self._mirror.apply(one.worker, evicted, stored)
            one.sequence, one.pause_s = sequence, RESYNC_PAUSE_S
            self._entries += 1
            # Thousands of pages may be waiting: requests go first.
            await asyncio.sleep(0)

    def _decode(self, one: _Followed, fields: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]] | None:
        """None when it cannot be read, which is as good as missing."""
        try:
            return read_entry(fields[FIELD])
        except (ProtocolMismatch, KeyError) as error:
            log.error("prefix events cannot be read", extra={"worker": one.worker, "cause": str(error)})
            return None
