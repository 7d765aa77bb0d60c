"""The wire between a worker's front process and its engine ranks: typed, tagged, versioned messages.

    front ──Submit, Abort, Stop──────────────► rank 0 ──Step, Send, Expect, Meet…──► ranks 1…
          ──Ask, Began, Retry, Local, Over──►          ◄──Sent, Arrived, Met, Lost──
          ──RunLeg, AbortLeg────────────────►
          ──Meet, Permit, Part──────────────►
          ──Watch───────────────────────────►
          ──Fetch, Pull, Lend, Unlend───────►          ──Read──►  ◄──Taken──
    front ◄──Ready, News, Pages, Fault───────  rank 0

An unknown tag or version is a ProtocolMismatch, never skipped. Everything here is a plain value.
"""

from __future__ import annotations

from baton.protocol.engine.asks import (
    Abort,
    AbortLeg,
    Ask,
    Began,
    Fetch,
    Lend,
    Local,
    Meet,
    Over,
    Part,
    Permit,
    Pull,
    Retry,
    RunLeg,
    Stop,
    Submit,
    Unlend,
    Watch,
)
from baton.protocol.engine.base import (
    VERSION,
    Message,
)
from baton.protocol.engine.codec import (
    FromFront,
    FromRank,
    ToEngine,
    ToFront,
    ToRank,
    encode,
    read_to_engine,
    read_to_front,
    read_to_rank,
)
from baton.protocol.engine.news import (
    Fault,
    Fetched,
    LegEnd,
    Lent,
    Loading,
    News,
    Pages,
    Path,
    Ready,
    Reservation,
    Wanting,
)
from baton.protocol.engine.ranks import (
    Arrived,
    Expect,
    Forget,
    FreshRow,
    Introduced,
    Lost,
    Met,
    Read,
    Send,
    Sent,
    Step,
    Taken,
)
from baton.protocol.engine.values import (
    Course,
    EngineFacts,
    Load,
    Update,
)

__all__ = [
    "VERSION",
    "Abort",
    "AbortLeg",
    "Arrived",
    "Ask",
    "Began",
    "Course",
    "EngineFacts",
    "Expect",
    "Fault",
    "Fetch",
    "Fetched",
    "Forget",
    "FreshRow",
    "FromFront",
    "FromRank",
    "Introduced",
    "LegEnd",
    "Lend",
    "Lent",
    "Load",
    "Loading",
    "Local",
    "Lost",
    "Meet",
    "Message",
    "Met",
    "News",
    "Over",
    "Pages",
    "Part",
    "Path",
    "Permit",
    "Pull",
    "Read",
    "Ready",
    "Reservation",
    "Retry",
    "RunLeg",
    "Send",
    "Sent",
    "Step",
    "Stop",
    "Submit",
    "Taken",
    "ToEngine",
    "ToFront",
    "ToRank",
    "Unlend",
    "Update",
    "Wanting",
    "Watch",
    "encode",
    "read_to_engine",
    "read_to_front",
    "read_to_rank",
]
