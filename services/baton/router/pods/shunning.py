"""Pods to keep away from: those that failed lately, until a probe finds them well again.

The relay reports; placement asks. A pod that failed gets no request for a while that doubles with each
failure; then it is asked whether it is ready, and comes back when it says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from baton.core.clock import Clock
from baton.router.placement import Health

log = logging.getLogger(__name__)

FIRST_S = 0.25
LONGEST_S = 15.0
TURN_S = 0.1
PENALTY_S = 0.25
"""What a pod that has just come back, or has just refused, is held to cost more."""
PENALTY_FADES_S = 2.0

Probe = Callable[[str], Awaitable[bool]]
"""Whether a pod is ready, by its id. Raises nothing and has a deadline."""


@dataclass(slots=True)
class _Record:
    incarnation: str
    failures: int
    until: float
    probing: bool = False


def pause_after(failures: int) -> float:
    """In a row; a pod may live on in its lease for days without answering anybody."""
    return min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16))


class Shunning:
    def __init__(self, clock: Clock, probe: Probe) -> None:
        self._clock = clock
        self._probe = probe
        self._records: dict[str, _Record] = {}
        self._penalties: dict[str, float] = {}
        """Until when."""
        self.shunned: frozenset[str] = frozenset()
        self.failures = 0
        """Of all pods, since the start."""

    def __repr__(self) -> str:
        return f"Shunning({', '.join(sorted(self.shunned)) or 'nobody'})"

    @property
    def health(self) -> Mapping[str, Health]:
        """For placement."""
        if not self._penalties:
            return MappingProxyType({})
        now = self._clock.now()
        for id in [id for id, until in self._penalties.items() if until <= now]:
            del self._penalties[id]
        return {id: Health(penalty_s=PENALTY_S) for id in self._penalties}

    def failed(self, id: str, incarnation: str, why: str) -> None:
        """A request was lost there, or could not be brought."""
        self.failures += 1
        known = self._records.get(id)
        if known is None or known.incarnation != incarnation:
            known = self._records[id] = _Record(incarnation, 0, 0.0)
        if self._clock.now() < known.until:
            return  # those that were under way when it fell over count once
        known.failures += 1
        pause_s = pause_after(known.failures)
        known.until = self._clock.now() + pause_s
        self.shunned |= {id}
        log.warning("a pod failed", extra={"worker": id, "cause": why, "shunned_s": pause_s})

    def refused(self, id: str) -> None:
        """It is well, and busier than was thought."""
        self._penalties[id] = self._clock.now() + PENALTY_FADES_S

    def succeeded(self, id: str) -> None:
        if self._records and self._records.pop(id, None) is not None:
            self._back(id)

    def restarted(self, id: str) -> None:
        """Another run of it has come: what the last one did means nothing."""
        if self._records.pop(id, None) is not None:
            self.shunned -= {id}

    async def run(self) -> None:
        """Probes, for as long as the router runs."""
        probes: set[asyncio.Task[None]] = set()
        while True:
            await self._clock.sleep(TURN_S)
            now = self._clock.now()
            for id, record in self._records.items():
                if now >= record.until and not record.probing:
                    record.probing = True
                    probe = asyncio.create_task(self._ask(id, record))
                    probes.add(probe)
                    probe.add_done_callback(probes.discard)

    async def _ask(self, id: str, record: _Record) -> None:
        ready = await self._probe(id)
        record.probing = False
        if self._records.get(id) is not record:
            return
        if ready:
            del self._records[id]
            self._back(id)
        else:
            record.failures += 1
            record.until = self._clock.now() + pause_after(record.failures)

    def _back(self, id: str) -> None:
        self.shunned -= {id}
        self._penalties[id] = self._clock.now() + PENALTY_FADES_S
        log.info("a pod is well again", extra={"worker": id})
