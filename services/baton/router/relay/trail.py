"""The last decisions, with what came of them: what /debug/placements and the page show.

Kept as they are; formatted only when somebody asks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from baton.router.placement import Decision

KEPT = 256


@dataclass(slots=True)
class Placement:
    """One attempt's."""

    request: str
    attempt: int
    at: float
    """By the router's clock."""
    prompt_tokens: int
    decision: Decision
    ttft_s: float | None = None
    """From this placement to the first bytes."""
    ended_s: float | None = None
    outcome: str = "running"
    """running, completed, refused, lost, left or failed."""

    def shown(self, now: float) -> dict[str, Any]:
        decision = asdict(self.decision)
        runner_up = self.decision.runner_up
        decision["runner_up"] = None if runner_up is None else asdict(runner_up)
        return {
            "request": self.request,
            "attempt": self.attempt,
            "age_s": round(now - self.at, 3),
            "prompt_tokens": self.prompt_tokens,
            "ttft_s": self.ttft_s,
            "ended_s": self.ended_s,
            "outcome": self.outcome,
            **decision,
        }


class Trail:
    def __init__(self) -> None:
        self._kept: deque[Placement] = deque(maxlen=KEPT)

    def __repr__(self) -> str:
        return f"Trail({len(self._kept)} placements)"

    def add(self, placement: Placement) -> None:
        self._kept.append(placement)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Oldest first."""
        return tuple(self._kept)
