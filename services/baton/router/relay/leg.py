"""One attempt as it is measured: what it holds of the pods' time, when its bytes came, how it ended.

Leaving it gives everything back, however the attempt ended.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from baton.core.errors import Cancelled, PeerLost, Refused
from baton.router.relay.means import Means
from baton.router.relay.trail import Placement
from baton.state import Hold
from baton.trace import Span

COMPUTED_AFTER = 1.5
"""An answer that comes whole, or without its beginning, does not say when its prompt was computed: after so
many times what was predicted, it is held to be."""
AT_LEAST_S = 0.02


class Leg:
    __slots__ = (
        "_began", "_computes", "_first", "_last", "_means", "_owner", "_span", "_timer", "_told",
        "placement", "ttft_s",
    )  # fmt: skip

    def __init__(
        self, means: Means, placement: Placement, began: float, span: Span, *, first: bool, told: bool
    ) -> None:
        """`first`: nothing of the answer has come yet, from any pod. `told`: its first bytes come when the
        prompt has been computed. `span` ends with the attempt."""
        self._span = span
        self._told = told
        self._means = means
        self.placement = placement
        self._began = began
        self._first = first
        self._last = 0.0
        self.ttft_s: float | None = None
        decision, loads = placement.decision, means.pods.loads
        local = decision.computes == decision.decode
        self._owner = loads.hold(decision.decode, decision.computed_tokens if local else 0)
        self._computes: Hold | None = (
            None if local else loads.hold(decision.computes, decision.computed_tokens)
        )
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._means.meters.placed(self.placement.decision)
        if not self._told:
            after_s = AT_LEAST_S + COMPUTED_AFTER * self.placement.decision.predicted_ttft_s
            self._timer = asyncio.get_running_loop().call_later(after_s, self._computed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._computed()
        self._owner.release()
        placement = self.placement
        placement.ended_s = self._means.clock.now() - placement.at
        if error is not None:
            placement.outcome = _outcome(error)
        self._span.tell(outcome=placement.outcome, ttft=placement.ttft_s)
        self._span.end("" if error is None else str(error) or type(error).__name__)

    def completed(self) -> None:
        self.placement.outcome = "completed"

    def arrived(self, data: bytes) -> None:
        """A piece of the answer came."""
        now = self._means.clock.now()
        if self._last:
            self._means.meters.itl.add(now - self._last)
        else:
            self._begin(now)
        self._last = now

    def _begin(self, now: float) -> None:
        placement, meters = self.placement, self._means.meters
        placement.ttft_s = now - placement.at
        self._computed()
        if not self._told:
            return
        meters.prediction(placement.decision, placement.ttft_s)
        if self._first and not placement.attempt:  # what an earlier attempt has left behind is not foretold
            self._means.pods.paces.measured(placement.decision, placement.ttft_s, now)
        if self._first:
            self.ttft_s = now - self._began
            meters.ttft.observe(self.ttft_s)

    def _computed(self) -> None:
        """The prompt has been, or should have been."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.release_tokens()
        if self._computes is not None:
            self._computes.release()
            self._computes = None


def _outcome(error: BaseException) -> str:
    match error:
        case Refused():
            return "refused"
        case PeerLost():
            return "lost"
        case Cancelled() | asyncio.CancelledError():
            return "left"
    return "failed"
