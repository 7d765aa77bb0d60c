"""What the cluster knows, in Redis: who lives (leases), who holds which pages (prefix events), and what every
router has under way (loads). Soft state: losing it costs cache hits, never a request.

A worker opens a `Link`, a `LeaseKeeper` and an `EventWriter`; a router opens a `Link` and a `FleetMirror`.
Nothing here raises into them because Redis is gone. Torch-free.
"""

from baton.state.board import BoardHealth, LeaseBoard
from baton.state.embedded import EmbeddedRedis
from baton.state.fed import FedReader
from baton.state.feed import IndexFeed
from baton.state.fleet import Change, Fleet, What, changes
from baton.state.index import PrefixIndex
from baton.state.keeper import LeaseHealth, LeaseKeeper, Standing
from baton.state.lease import Role, WorkerLease, WorkerLoad
from baton.state.link import Link, LinkHealth
from baton.state.loads import Hold, InFlight, LoadBoard
from baton.state.mirror import FleetMirror, MirrorHealth
from baton.state.reader import EventReader, PageMirror, Progress, ReaderHealth
from baton.state.settings import StateSettings
from baton.state.writer import EventWriter, WriterHealth

__all__ = [
    "BoardHealth",
    "Change",
    "EmbeddedRedis",
    "EventReader",
    "EventWriter",
    "FedReader",
    "Fleet",
    "FleetMirror",
    "Hold",
    "InFlight",
    "IndexFeed",
    "LeaseBoard",
    "LeaseHealth",
    "LeaseKeeper",
    "Link",
    "LinkHealth",
    "LoadBoard",
    "MirrorHealth",
    "PageMirror",
    "PrefixIndex",
    "Progress",
    "ReaderHealth",
    "Role",
    "Standing",
    "StateSettings",
    "What",
    "WorkerLease",
    "WorkerLoad",
    "WriterHealth",
    "changes",
]
