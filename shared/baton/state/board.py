"""Watches the leases of all workers, and gives out the fleet as an immutable value.

A router (or a decode pod that looks for prefill pods) owns one. It reads every half second, and at once
when a worker nudges. Reading `fleet` costs nothing and never waits for Redis; while Redis is gone the last
fleet stays, and `health` says how old it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from baton.core.errors import ProtocolMismatch, StateUnreachable
from baton.state.address import LONGEST_BLOCK_S
from baton.state.fleet import Change, Fleet, Sightings, changes
from baton.state.lease import read_beat, read_facts
from baton.state.link import Link
from baton.state.rounds import Rounds

log = logging.getLogger(__name__)

T = TypeVar("T")

SCAN_S = 0.5
SHORTEST_REST_S = 0.02
"""Between two scans, however many nudges come."""
BEGINNING = b"0-0"


@dataclass(frozen=True, slots=True)
class BoardHealth:
    workers: int
    read_s: float
    """Seconds since the leases were last read (since the board was made, before that): the fleet's age."""
    read: bool
    """They have been read at least once."""
    unreadable: frozenset[str]
    """Workers whose lease is there and cannot be understood: another release, most likely."""


class LeaseBoard:
    """`async with`; then `fleet`, `wait` and `watch`, from any task of the loop."""

    def __init__(self, link: Link, *, scan_s: float = SCAN_S) -> None:
        self._link = link
        self._clock = link.clock
        self._scan_s = min(scan_s, LONGEST_BLOCK_S)
        self._sightings = Sightings()
        self._fleet = Fleet()
        self._moved = asyncio.Event()
        self._nudge_id = BEGINNING
        self._read_at: float | None = None
        self._made_at = self._clock.now()
        self._unreadable = frozenset[str]()
        self._rounds = Rounds("lease board", self._round, self._clock)

    def __repr__(self) -> str:
        return f"LeaseBoard({self._fleet!r})"

    @property
    def fleet(self) -> Fleet:
        return self._fleet

    @property
    def looked(self) -> bool:
        """They have been read at least once."""
        return self._read_at is not None

    @property
    def health(self) -> BoardHealth:
        since = self._made_at if self._read_at is None else self._read_at
        return BoardHealth(
            len(self._fleet.workers),
            self._clock.now() - since,
            self._read_at is not None,
            self._unreadable,
        )

    async def wait(self, version: int) -> Fleet:
        """The fleet, once it is newer than `version`. Set a deadline of your own."""
        while self._fleet.version <= version:
            await self._moved.wait()
        return self._fleet

    async def watch(self) -> AsyncIterator[tuple[Fleet, tuple[Change, ...]]]:
        """Each new fleet with what changed since the last one yielded, beginning with all who live now. A
        slow reader gets fewer, never stale ones."""
        last = Fleet(version=-1)
        while True:
            fleet = await self.wait(last.version)
            yield fleet, changes(last, fleet)
            last = fleet

    async def __aenter__(self) -> Self:
        self._rounds.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rounds.close()

    async def _round(self) -> float:
        try:
            await self._scan()
            await self._wait_for_nudge()
        except StateUnreachable:
            self._sightings.unreadable()
            self._nudge_id = BEGINNING
            raise
        return SHORTEST_REST_S

    async def _wait_for_nudge(self) -> None:
        """Until a worker says that something changed, or the next scan is due."""
        if self._link.clustered:
            await self._clock.sleep(self._scan_s)
            return
        block_ms = max(1, round(self._scan_s * 1000))
        key, seen = self._link.keys.nudges, self._nudge_id
        reply = await self._link.ask("XREAD", "BLOCK", block_ms, "STREAMS", key, seen, wait_s=self._scan_s)
        if reply:
            self._nudge_id = reply[0][1][-1][0]

    async def _scan(self) -> None:
        keys, garbled = self._link.keys, set[str]()
        # A Redis that is full, or a replica by now, answers questions and renews no lease: nobody's silence
        # counts there either. Writing nothing is refused by one as any other write.
        _, names = await self._link.ask_all([("SETRANGE", keys.nothing, 0, b""), ("SMEMBERS", keys.workers)])
        members = {name.decode(errors="replace") for name in names}
        ids = sorted(members | self._sightings.known)
        beats = await self._read(ids, keys.lease, read_beat, garbled)
        wanted = [id for id, beat in beats.items() if beat and self._sightings.needs_facts(id, beat)]
        facts = await self._read(wanted, keys.facts, read_facts, garbled)
        now = self._clock.now()
        self._sightings.look(now, beats, {id: one for id, one in facts.items() if one is not None})
        self._read_at, self._unreadable = now, frozenset(garbled)
        self._publish(self._sightings.fleet(self._fleet))
        for id in self._sightings.forget(now):
            await self._link.ask("SREM", keys.workers, id)

    async def _read(
        self, ids: list[str], key: Callable[[str], str], decode: Callable[[bytes], T], garbled: set[str]
    ) -> dict[str, T | None]:
        """Each worker's message, None where there is none; who sent what nobody here understands is left
        out, and goes into `garbled`."""
        replies = await self._link.ask_all([("GET", key(id)) for id in ids]) if ids else []
        found: dict[str, T | None] = {}
        for id, data in zip(ids, replies, strict=True):
            try:
                found[id] = None if data is None else decode(data)
            except ProtocolMismatch as error:
                garbled.add(id)
                if id not in self._unreadable:
                    log.error("a worker's lease cannot be read", extra={"worker": id, "cause": str(error)})
        return found

    def _publish(self, fleet: Fleet) -> None:
        if fleet is not self._fleet:
            self._fleet = fleet
            self._moved.set()
            self._moved = asyncio.Event()
