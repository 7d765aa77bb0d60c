"""Keeps one worker's lease in Redis: publishes it, renews it, withdraws it.

The worker's front process owns one and revises the lease as its load changes; that costs a microsecond
and no I/O, and the next beat carries it. Redis may vanish and come back empty: the keeper says so in
`standing`, and publishes everything again within a second of its return.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import msgspec

from baton.core.errors import InvalidField, StateUnreachable
from baton.state.lease import BEATEN, Beat, Facts, WorkerLease, WorkerLoad, encode
from baton.state.link import Command, Link
from baton.state.rounds import Rounds

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
EXPIRY_S = 3.0
FACTS_TTL_S = 60.0
"""Facts outlive the lease, for a Redis that was away for a while; who is gone leaves none for ever."""
NUDGES_KEPT = 64


class Standing(StrEnum):
    """How a lease stands, as far as its keeper can tell."""

    PENDING = "pending"
    """Never published."""
    HELD = "held"
    LAPSED = "lapsed"
    """Not renewed for as long as it lasts: others may think the worker gone."""
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class LeaseHealth:
    standing: Standing
    renewed_s: float
    """Seconds since the last renewal, or since the keeper was made."""
    renewals: int
    republished: int
    """Times that Redis had lost the lease's facts and got them again."""


class LeaseKeeper:
    """`async with`, for as long as the worker can be asked for work or is finishing some."""

    def __init__(
        self,
        link: Link,
        lease: WorkerLease,
        *,
        events: Callable[[], int] = lambda: 0,
        load: Callable[[], WorkerLoad] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        """`events` is the sequence number of the last batch written (`EventWriter.sequence`); `load` is asked
        at each beat, and without it the lease's own load counts."""
        assert 0 < heartbeat_s < expiry_s
        self._link = link
        self._clock = link.clock
        self._lease = lease
        self._events = events
        self._load = load
        self._heartbeat_s = heartbeat_s
        self._expiry_s = expiry_s
        self._facts_version = 1
        self._facts_published = 0
        self._facts_head = b""
        """How the published ones begin: their version, the worker's name and its run's."""
        self._facts_held = False
        self._told_draining = False
        self._beats = 0
        self._renewals = 0
        self._republished = 0
        self._renewed_at: float | None = None
        self._made_at = self._clock.now()
        self._withdrawn = False
        # Readers give a lease one expiry to come back after Redis does: never pause for most of it.
        self._rounds = Rounds(f"lease of {lease.id}", self._round, self._clock, longest_pause_s=heartbeat_s)

    def __repr__(self) -> str:
        return f"LeaseKeeper({self._lease.id}, {self.health.standing}, {self._renewals} renewals)"

    @property
    def lease(self) -> WorkerLease:
        return self._lease

    @property
    def health(self) -> LeaseHealth:
        since = self._clock.now() - (self._made_at if self._renewed_at is None else self._renewed_at)
        if self._withdrawn:
            standing = Standing.WITHDRAWN
        elif self._renewed_at is None:
            standing = Standing.PENDING
        else:
            standing = Standing.HELD if since < self._expiry_s else Standing.LAPSED
        return LeaseHealth(standing, since, self._renewals, self._republished)

    def revise(self, **changes: Any) -> None:
        """Replace fields of the lease. Load travels with the next beat, everything else at once."""
        for fixed in ("id", "incarnation"):
            if changes.get(fixed, getattr(self._lease, fixed)) != getattr(self._lease, fixed):
                raise InvalidField(fixed, "cannot change during a run of a worker")
        before = self._lease
        self._lease = msgspec.structs.replace(before, **changes)
        if any(getattr(before, name) != value for name, value in changes.items() if name not in BEATEN):
            self._facts_version += 1
        elif before.draining == self._lease.draining:
            return
        self._rounds.wake()

    async def __aenter__(self) -> Self:
        self._rounds.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.withdraw()

    async def withdraw(self) -> None:
        """Leave, and say so. Safe to repeat. Where Redis is gone, the lease ends by itself."""
        if self._withdrawn:
            return
        self._withdrawn = True
        await self._rounds.close()
        if self._renewed_at is None:
            return
        keys, id = self._link.keys, self._lease.id
        commands: list[Command] = [
            ("SET", keys.lease(id), encode(self._beat()), "PX", round(self._expiry_s * 1000)),
            ("SREM", keys.workers, id),
            ("DEL", keys.facts(id)),
            self._nudge(),
        ]
        try:
            await self._link.ask_all(commands)
        except StateUnreachable:
            log.warning("left without saying so: Redis is gone", extra={"expiry_s": self._expiry_s})

    async def _round(self) -> float:
        version = self._facts_version
        new = version != self._facts_published
        await self._publish(new)
        if not new and not self._facts_held:
            # Redis came back empty, or without the last change: readers need them now, not at the next.
            self._republished += 1
            await self._publish(True)
        self._facts_published = version
        return self._heartbeat_s

    async def _publish(self, with_facts: bool) -> None:
        """One beat, after the facts that it speaks of."""
        keys, id = self._link.keys, self._lease.id
        ttl_ms = round(max(FACTS_TTL_S, 4 * self._expiry_s) * 1000)
        beat = self._beat()
        commands: list[Command] = []
        if with_facts:
            facts = encode(Facts(beat.facts, self._lease))
            run = self._lease.incarnation.encode()
            self._facts_head = facts[: facts.index(run) + len(run)]
            commands.append(("SET", keys.facts(id), facts, "PX", ttl_ms))
        commands += [
            ("GETRANGE", keys.facts(id), 0, len(self._facts_head) - 1),
            ("PEXPIRE", keys.facts(id), ttl_ms),
            ("SET", keys.lease(id), encode(beat), "PX", beat.expiry_ms),
            ("SADD", keys.workers, id),
        ]
        if with_facts or beat.draining != self._told_draining:
            commands.append(self._nudge())
        replies = await self._link.ask_all(commands)
        # That there are some proves little: a replica that took over may have missed the last change.
        self._facts_held = replies[1 if with_facts else 0] == self._facts_head
        self._told_draining = beat.draining
        self._renewed_at = self._clock.now()
        self._renewals += 1

    def _beat(self) -> Beat:
        self._beats += 1
        lease = self._lease
        return Beat(
            incarnation=lease.incarnation,
            count=self._beats,
            facts=self._facts_version,
            expiry_ms=round(self._expiry_s * 1000),
            draining=lease.draining,
            load=lease.load if self._load is None else self._load(),
            events=self._events(),
            withdrawn=self._withdrawn,
        )

    def _nudge(self) -> Command:
        return ("XADD", self._link.keys.nudges, "MAXLEN", "~", NUDGES_KEPT, "*", "worker", self._lease.id)
