"""The hand-over's data path: pages of one rank's KV pool into another's, over NIXL.

`layout` says who sends what, `memory` makes the pool's bytes, `Agent` registers them, and `Mover` is
the thread that moves pages and says when they can move no more. NIXL and torch are imported when an
agent or memory is made, not by this package.
"""

from baton.transfer.agent import Agent
from baton.transfer.layout import (
    SCRATCH_PAGE,
    PoolLayout,
    RankPair,
    Span,
    rank_pairs,
    shard_heads,
)
from baton.transfer.memory import Kind, PoolMemory, Region, allocate
from baton.transfer.messages import AbortAck, Landing, PeerInfo, Place
from baton.transfer.mover import Mover
from baton.transfer.orders import (
    Aborted,
    Counts,
    Landed,
    Limits,
    Moved,
    MoverDied,
    Outcome,
    Overdue,
    Pace,
    PeerDropped,
    Pull,
    Push,
    Quieted,
    Report,
    Taken,
)
from baton.transfer.path import Expectation, Measured, Verdict, transport_log

__all__ = [
    "SCRATCH_PAGE",
    "AbortAck",
    "Aborted",
    "Agent",
    "Counts",
    "Expectation",
    "Kind",
    "Landed",
    "Landing",
    "Limits",
    "Measured",
    "Moved",
    "Mover",
    "MoverDied",
    "Outcome",
    "Overdue",
    "Pace",
    "PeerDropped",
    "PeerInfo",
    "Place",
    "PoolLayout",
    "PoolMemory",
    "Pull",
    "Push",
    "Quieted",
    "RankPair",
    "Region",
    "Report",
    "Span",
    "Taken",
    "Verdict",
    "allocate",
    "rank_pairs",
    "shard_heads",
    "transport_log",
]
