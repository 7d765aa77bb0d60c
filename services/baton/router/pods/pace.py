"""Who is slower than it claims: first tokens as they came, against what was expected of who computed them.

The relay reports, placement asks. A pod counts as slow when it takes at least SLOW times as long as its peers
do, each against its own claims: what all of them are off by is the estimate's fault. A slow pod gets what is
left when the others are that much busier, and besides one request now and then, to see whether it still is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low

from baton.router.placement import Decision, Health

log = logging.getLogger(__name__)

TOLERANCE_S = 0.02
"""A first token that is off by less says nothing of its pod."""
SLOW = 2.0
LARGEST = 16.0
"""No pod is held to be slower than that."""
WEIGHT = 0.25
"""Of one answer."""
STEP = math.log(2)
"""One answer counts at most as twice (or half) as long as those before it: no single one makes a pod slow."""
LEAST = 4
"""Answers before a pod is judged, or others are by it."""
PROBE_S = 5.0
"""A slow pod is tried after so long without an answer that it was quick at."""
PROBE_LASTS_S = 30.0
"""An attempt to try it that has brought nothing by then is followed by another."""


@dataclass(slots=True)
class _Record:
    kind: str
    pace: float = 0.0
    """Logarithm of how many times longer it takes than expected, over its last answers."""
    answers: int = 0
    slow: float = 1.0
    """How many times slower than its peers; 1 while it is not slow."""
    probe_at: float = 0.0
    """When it is tried next, while slow."""


class Paces:
    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._slow: dict[str, _Record] = {}

    def __repr__(self) -> str:
        told = ", ".join(f"{id} {one.slow:.1f}x" for id, one in sorted(self._slow.items()))
        return f"Paces({told or 'nobody is slow'})"

    @property
    def slow(self) -> Mapping[str, float]:
        """How many times longer each slow pod takes than its peers."""
        return {id: one.slow for id, one in self._slow.items()}

    def health(self, now: float, others: Mapping[str, Health]) -> Mapping[str, Health]:
        """For placement: with what else there is against pods."""
        if not self._slow:
            return others
        told = dict(others)
        for id, one in self._slow.items():
            if now < one.probe_at:
                told[id] = told.get(id, Health())._replace(slowness=one.slow)
        return told

    def placed(self, decision: Decision, now: float) -> None:
        """A request goes there. One is enough to try a slow pod."""
        if self._slow and (one := self._slow.get(decision.computes)) is not None and now >= one.probe_at:
            one.probe_at = now + PROBE_LASTS_S

    def measured(self, decision: Decision, ttft_s: float, now: float) -> None:
        """A prompt's first token came, so long after it was placed."""
        ratio = ratio_of(decision, ttft_s)
        if ratio is None:
            return
        kind = "local" if decision.local else "prefill"
        one = self._records.get(decision.computes)
        if one is None or one.kind != kind:
            one = self._records[decision.computes] = _Record(kind)
        one.pace = mixed(one.pace, ratio)
        one.answers += 1
        one.probe_at = now if ratio < SLOW else now + PROBE_S
        self._judge(decision.computes, one)

    def forget(self, id: str) -> None:
        """It has left, or another run of it has come."""
        self._records.pop(id, None)
        self._slow.pop(id, None)

    def _judge(self, id: str, one: _Record) -> None:
        slow = self._slower(one)
        if slow >= SLOW and id not in self._slow:
            self._slow[id] = one
            log.warning("a pod is slow", extra={"worker": id, "times": round(slow, 1)})
        elif slow < SLOW and self._slow.pop(id, None) is not None:
            log.info("a pod is as quick as others again", extra={"worker": id})
        one.slow = slow if slow >= SLOW else 1.0

    def _slower(self, one: _Record) -> float:
        """Than its peers are."""
        if one.answers < LEAST or one.pace < math.log(SLOW):
            return 1.0
        peers = [other.pace for other in self._records.values() if _peers(one, other)]
        usual = max(0.0, median_low(peers)) if peers else one.pace
        return min(LARGEST, math.exp(one.pace - usual))


def _peers(one: _Record, other: _Record) -> bool:
    return other is not one and other.kind == one.kind and other.answers >= LEAST


def ratio_of(decision: Decision, ttft_s: float) -> float | None:
    """How many times longer than whoever computed claims to take; None where that was not foretold."""
    if not decision.candidates:
        return None
    told = decision.candidates[0]
    claimed_s = (told.queue_s + told.compute_s) / decision.slowness
    if claimed_s <= 0:
        return None
    took_s = max(0.0, ttft_s - (told.ttft_s - told.queue_s - told.compute_s))
    late_s = took_s - claimed_s
    if abs(late_s) <= TOLERANCE_S:
        return 1.0
    counted_s = late_s - math.copysign(TOLERANCE_S, late_s)
    return max(1 / LARGEST, 1 + counted_s / (claimed_s + TOLERANCE_S))


def mixed(pace: float, ratio: float) -> float:
    """A pod's pace with one answer more."""
    return pace + WEIGHT * max(-STEP, min(STEP, math.log(ratio) - pace))
