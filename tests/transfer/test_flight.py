"""An order whose posting fails in the middle: some of its descriptors may have been taken by the transport.

The agent is one that fails; no transport here can be made to.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.transfer.side import LAYOUT, push

from baton.core.errors import Failed, PeerLost
from baton.transfer.agent import Agent, Peer, Transfer
from baton.transfer.messages import PeerInfo, Place
from baton.transfer.orders import Limits, Moved, Outcome, Quieted, Report
from baton.transfer.traffic import Traffic

INFO = PeerInfo(
    incarnation="there", rank=0, layout=LAYOUT, place=Place(host="", processes=""), address=0, segment="DRAM",
    device=0, metadata=b"",
)  # fmt: skip


class Failing(Agent):
    """Knows one peer, and cannot post."""

    def __init__(self, error: Failed) -> None:
        self.layout, self.rank, self.error = LAYOUT, 0, error

    def peer(self, incarnation: str) -> Peer:
        return Peer(INFO)

    def make(self, *args: Any) -> Transfer:
        return Transfer("there", 1)

    def start(self, transfer: Transfer) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "outcome"), [(Failed("torn"), Outcome.FAILED), (PeerLost("reset"), Outcome.PEER_LOST)]
)
def test_what_failed_while_it_was_posted_is_quiet_only_when_it_has_settled(
    error: Failed, outcome: Outcome
) -> None:
    now, reports = 10.0, list[Report]()
    traffic = Traffic(Failing(error), reports.append, Limits(settle_s=0.5), lambda: now)
    traffic.take(push("there", [1, 2], [3, 4], attempt="a"))
    traffic.advance(traffic.ground)
    (moved,) = reports
    assert isinstance(moved, Moved) and moved.outcome is outcome and not moved.quiet
    now = 10.4
    traffic.advance(traffic.ground)
    assert len(reports) == 1 and len(traffic) == 1
    now = 10.6
    traffic.advance(traffic.ground)
    assert reports[1:] == [Quieted("a", 0, "there")] and not len(traffic)
