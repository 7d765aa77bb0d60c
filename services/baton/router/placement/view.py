"""What a placement is decided from: the workers as they stand, and the request. Nothing here changes.

The router makes a `Roster` when its fleet changes (a few times a second) and a `View` for each request,
which costs nothing: it lends the mappings that its mirror keeps. Times are of the router's own clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

from baton.router.placement.settings import PlacementSettings
from baton.state.lease import Role, WorkerLease
from baton.state.loads import InFlight

Group = tuple[str, str]
"""Layout fingerprint and generation: pages move only between workers that agree on both."""

IDLE = InFlight()
ALIKE = 1.5
"""Measured rates of prefill this far apart, as a ratio, say nothing of the workers."""


class Health(NamedTuple):
    """What this router has against a worker."""

    penalty_s: float = 0.0
    """Added to its costs: it failed lately."""
    slowness: float = 1.0
    """How many times longer it takes than it claims, where its peers do not."""


SOUND = Health()


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker that takes work: its lease, in the units of the estimates."""

    id: str
    role: Role
    group: Group
    node: str
    zone: str
    page_bytes: int
    pages: int
    max_model_len: int
    """0 when it does not say."""
    bandwidths: Mapping[str, float]
    """GB/s to or from peers, as measured."""
    token_s: float
    """Seconds that a prompt token takes."""
    step_s: float
    """Seconds that a decode step took, with `stepped` requests in it."""
    stepped: int
    queued_tokens: int
    """Prompt tokens to be computed, at `seen_at`."""
    requests: int
    """Requests it had, at `seen_at`."""
    room: int
    """Pages free or evictable, at `seen_at`."""
    mark: int
    """Stands for its id in orders of equals."""
    seen_at: float
    """When its load was first seen here."""


@dataclass(frozen=True, slots=True)
class Roster:
    """Every live worker, sorted for placement."""

    decodes: tuple[Seat, ...] = ()
    """Decode and unified workers that take work, by id."""
    prefills: Mapping[Group, tuple[Seat, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Prefill workers that take work, by id."""
    draining: int = 0
    """Workers that take none."""
    fastest_gbps: float = 1.0
    """No pair of workers moves pages faster."""
    leases: Mapping[str, WorkerLease] = field(default_factory=lambda: MappingProxyType({}))
    seen: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        prefills = sum(map(len, self.prefills.values()))
        return f"Roster({len(self.decodes)} decode, {prefills} prefill, {self.draining} draining)"

    @classmethod
    def of(
        cls,
        leases: Mapping[str, WorkerLease] | Iterable[WorkerLease],
        settings: PlacementSettings,
        now: float = 0.0,
        before: Roster | None = None,
    ) -> Roster:
        """`before` is the roster of the fleet that this one follows: a worker whose lease is the very same
        object has not been heard of since."""
        every = leases if isinstance(leases, Mapping) else {lease.id: lease for lease in leases}
        known = before or cls()
        seen = {id: known.seen[id] if known.leases.get(id) is lease else now for id, lease in every.items()}
        active = sorted((one for one in every.values() if not one.draining), key=lambda one: one.id)
        rates = _rates(active, settings)
        steps = _best((_kind(one), one.load.decode_step_ms) for one in active)
        decodes: list[Seat] = []
        prefills: dict[Group, list[Seat]] = {}
        for lease in active:
            rate = _settled(lease.load.prefill_tokens_per_s, rates[_make(lease)])
            step_ms = lease.load.decode_step_ms or steps.get(_kind(lease), settings.decode_step_ms)
            seat = _seat(lease, 1 / rate, step_ms / 1000, seen[lease.id])
            if lease.role == "prefill":
                prefills.setdefault(seat.group, []).append(seat)
            else:
                decodes.append(seat)
        return cls(
            tuple(decodes),
            MappingProxyType({group: tuple(seats) for group, seats in prefills.items()}),
            len(every) - len(active),
            _fastest(active, settings),
            every,
            seen,
        )


@dataclass(frozen=True, slots=True)
class View:
    """The workers at one moment."""

    roster: Roster
    now: float = 0.0
    mine: Mapping[str, InFlight] = field(default_factory=lambda: MappingProxyType({}))
    """What this router has in flight: requests, and prompt tokens that are still to be computed."""
    others: Mapping[str, InFlight] = field(default_factory=lambda: MappingProxyType({}))
    """The same of all other routers, a moment ago."""
    health: Mapping[str, Health] = field(default_factory=lambda: MappingProxyType({}))
    """Of workers that are not sound."""
    router: str = ""
    """Whose view it is: routers differ in their order of equals."""

    def in_flight(self, worker: str) -> InFlight:
        mine, others = self.mine.get(worker), self.others.get(worker)
        if mine is None:
            return others or IDLE
        if others is None:
            return mine
        return InFlight(mine.requests + others.requests, mine.tokens + others.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One request, as far as placing it goes. Of several choices of one prompt, the prompt counts once."""

    prompt_tokens: int
    """Of all its prompts together."""
    page_size: int
    held: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Worker → how many of the prompt's leading pages it holds (`PrefixIndex.lookup`)."""
    identities: Sequence[bytes] = ()
    """The prompt's pages; they decide between equals alone, so that equal prompts meet."""
    max_tokens: int | None = None
    """What it may generate; None is as much as the model's length leaves."""
    longest: int = 0
    """Tokens of the longest of several prompts: each is a sequence of its own. 0 for the only one."""
    excluded: frozenset[str] = frozenset()
    """Workers that it must not go to: they failed it, or refused it."""
    number: int = 0
    """How many this router has placed before; for policies that take turns."""

    @property
    def sequence_tokens(self) -> int:
        """What a worker must have room for at a time, at least."""
        return self.longest or self.prompt_tokens

    def cached_tokens(self, worker: str) -> int:
        """Of the prompt, as far as the index knows. The last token is always computed."""
        pages = self.held.get(worker)
        return min(pages, (self.prompt_tokens - 1) // self.page_size) * self.page_size if pages else 0


def _kind(lease: WorkerLease) -> tuple[Role, str]:
    return lease.role, lease.layout_fingerprint


def _make(lease: WorkerLease) -> tuple[str, int]:
    """Workers that agree on it are taken to run on the same hardware, whatever their roles."""
    return lease.layout_fingerprint, lease.tensor_parallel


def _rates(leases: Iterable[WorkerLease], settings: PlacementSettings) -> dict[tuple[str, int], float]:
    """The median of what workers of one make measured."""
    measured: dict[tuple[str, int], list[float]] = {}
    for lease in leases:
        rates = measured.setdefault(_make(lease), [])
        if lease.load.prefill_tokens_per_s > 0:
            rates.append(lease.load.prefill_tokens_per_s)
    return {
        make: median(rates) if rates else settings.prefill_tokens_per_s for make, rates in measured.items()
    }


def _settled(measured: float, usual: float) -> float:
    """What a worker's rate counts as. A rate tells as much of the prompts as of the worker (long ones, and
    very short ones, look slow), so only by what it is further from the usual than that is it believed."""
    if not measured:
        return usual
    return min(max(usual, measured / ALIKE), measured * ALIKE)


def _best(measured: Iterable[tuple[tuple[Role, str], float]]) -> dict[tuple[Role, str], float]:
    """The least of each kind of worker. One that has none yet is taken to be as good, so it is tried."""
    best: dict[tuple[Role, str], float] = {}
    for kind, figure in measured:
        if figure > 0:
            best[kind] = min(best.get(kind, figure), figure)
    return best


def _fastest(leases: Sequence[WorkerLease], settings: PlacementSettings) -> float:
    measured = (gbps for lease in leases for gbps in lease.bandwidths.values())
    nodes = [lease.node for lease in leases if lease.node]
    assumed = settings.node_gbps if len(set(nodes)) < len(nodes) else settings.zone_gbps
    return max(assumed, settings.far_gbps, *measured)


def _seat(lease: WorkerLease, token_s: float, step_s: float, seen_at: float) -> Seat:
    load = lease.load
    return Seat(
        id=lease.id,
        role=lease.role,
        group=(lease.layout_fingerprint, lease.generation),
        node=lease.node,
        zone=lease.zone,
        page_bytes=lease.page_bytes,
        pages=lease.pages,
        max_model_len=lease.max_model_len,
        bandwidths=lease.bandwidths,
        token_s=token_s,
        step_s=step_s,
        stepped=load.running if load.decode_step_ms else 1,
        queued_tokens=load.prefill_tokens_queued,
        requests=load.running + load.waiting + load.prefilling,
        room=load.pages_free + load.pages_evictable,
        mark=crc32(lease.id.encode()),
        seen_at=seen_at,
    )
