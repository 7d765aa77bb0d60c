"""Which workers live, judged from what was read of their leases. Pure: time is given, nothing is awaited.

A worker lives while its beats grow, by the reader's own clock. That a key is missing proves nothing: Redis
may have been flushed, restarted from an old file or paused past every expiry, and the workers behind
it are well. So time in which Redis could not be read counts for nobody, and a lease that vanished is
given its whole expiry to come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import msgspec

from baton.state.lease import Beat, Facts, WorkerLease, WorkerLoad

FORGET_S = 60.0
"""How long a worker that is gone is remembered, so that a late write of its last run is not believed."""
RETIRED_KEPT = 16


class What(StrEnum):
    JOINED = "joined"
    CHANGED = "changed"
    """Draining, or its facts. Load alone is no change."""
    RESTARTED = "restarted"
    """Another incarnation under the same id: whatever the last one held is gone."""
    LEFT = "left"
    """Withdrew its lease."""
    EXPIRED = "expired"
    """Fell silent."""


@dataclass(frozen=True, slots=True)
class Change:
    what: What
    lease: WorkerLease
    """The new one; of a worker that is gone, the last."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """All live workers at one moment."""

    workers: Mapping[str, WorkerLease] = field(default_factory=lambda: MappingProxyType({}))
    version: int = 0
    """Grows with every change, load included."""
    expired: frozenset[str] = frozenset()
    """Workers that fell silent within the last minute and have not come back."""

    def __repr__(self) -> str:
        return f"Fleet({len(self.workers)} workers, version {self.version}, {len(self.expired)} expired)"


def changes(before: Fleet, after: Fleet) -> tuple[Change, ...]:
    """What happened between two fleets, in the order of ids; what came and went in between is not told."""
    told = []
    for id in sorted(before.workers.keys() | after.workers.keys()):
        old, new = before.workers.get(id), after.workers.get(id)
        if new is None:
            assert old is not None
            told.append(Change(What.EXPIRED if id in after.expired else What.LEFT, old))
        elif old is None:
            told.append(Change(What.JOINED, new))
        elif old.incarnation != new.incarnation:
            told.append(Change(What.RESTARTED, new))
        elif _settled(old) != _settled(new):
            told.append(Change(What.CHANGED, new))
    return tuple(told)


def _settled(lease: WorkerLease) -> WorkerLease:
    """The lease without what every beat changes."""
    return msgspec.structs.replace(lease, load=WorkerLoad(), events=0)


@dataclass(slots=True)
class _Sighting:
    beat: Beat
    facts: int
    """Version of the facts in `lease`."""
    lease: WorkerLease
    renewed_at: float
    gone: What | None = None
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=RETIRED_KEPT))
    """Earlier incarnations."""


class Sightings:
    """What one board has seen of each worker. `look` after each reading of all leases."""

    def __init__(self) -> None:
        self._seen: dict[str, _Sighting] = {}
        self._absent: dict[str, float] = {}
        self._readable_since: float | None = None

    def __repr__(self) -> str:
        return f"Sightings({len(self._seen)} workers)"

    @property
    def known(self) -> frozenset[str]:
        """Ids whose leases must be read even when the set of workers lacks them."""
        return frozenset(self._seen)

    def needs_facts(self, id: str, beat: Beat) -> bool:
        """Whether this beat speaks of facts that were not seen yet."""
        seen = self._seen.get(id)
        if beat.withdrawn:
            return False
        if seen is None or beat.incarnation != seen.beat.incarnation:
            return seen is None or beat.incarnation not in seen.retired
        return beat.facts > seen.facts

    def unreadable(self) -> None:
        """Redis could not be read: from now on nobody's silence counts, until it can be."""
        self._readable_since = None

    def look(self, now: float, beats: Mapping[str, Beat | None], facts: Mapping[str, Facts]) -> None:
        """Judge by a reading: every lease asked for (None where there is none), and the facts of those
        that needed them."""
        if self._readable_since is None:
            self._readable_since = now
        for id, beat in beats.items():
            if beat is None:
                self._absent.setdefault(id, now)
            else:
                self._absent.pop(id, None)
                self._renew(now, id, beat, facts.get(id))
        for seen in self._seen.values():
            quiet_s = now - max(seen.renewed_at, self._readable_since)
            if seen.gone is None and quiet_s > seen.beat.expiry_ms / 1000:
                seen.gone = What.EXPIRED
                seen.renewed_at = now

    def _renew(self, now: float, id: str, beat: Beat, facts: Facts | None) -> None:
        seen = self._seen.get(id)
        # Beat and facts are two keys, so they may be read a moment apart: the next look will match them.
        fresh = facts if facts and (facts.lease.incarnation == beat.incarnation) else None
        if seen is None or beat.incarnation != seen.beat.incarnation:
            if fresh is None or not self.needs_facts(id, beat):
                return
            found = _Sighting(beat, fresh.version, _with_beat(fresh.lease, beat), now)
            if seen is not None:
                found.retired.extend((*seen.retired, seen.beat.incarnation))
            self._seen[id] = found
            return
        if beat.count <= seen.beat.count:
            return
        if fresh is not None:
            seen.facts = fresh.version
        seen.beat, seen.lease, seen.renewed_at = beat, _with_beat((fresh or seen).lease, beat), now
        seen.gone = What.LEFT if beat.withdrawn else None

    def forget(self, now: float) -> list[str]:
        """Drop who is long gone; the ids that no lease stands behind any more."""
        for id, seen in list(self._seen.items()):
            if seen.gone is not None and now - seen.renewed_at > FORGET_S:
                del self._seen[id]
        old = [id for id, since in self._absent.items() if now - since > FORGET_S and id not in self._seen]
        for id in old:
            del self._absent[id]
        return old

    def fleet(self, before: Fleet) -> Fleet:
        """The live workers now; `before` itself when nothing is new."""
        live = {id: seen.lease for id, seen in sorted(self._seen.items()) if seen.gone is None}
        expired = frozenset(id for id, seen in self._seen.items() if seen.gone is What.EXPIRED)
        if expired == before.expired and live == before.workers:
            return before
        return Fleet(MappingProxyType(live), before.version + 1, expired)


def _with_beat(lease: WorkerLease, beat: Beat) -> WorkerLease:
    return msgspec.structs.replace(lease, draining=beat.draining, load=beat.load, events=beat.events)
