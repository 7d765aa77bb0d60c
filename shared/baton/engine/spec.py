"""What a front process hands to each rank it starts, as one JSON line on the rank's standard input."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from baton.engine.config import EngineConfig
from baton.telemetry import LogSettings


@dataclass(frozen=True, slots=True)
class RankLogs:
    """How a rank logs: as its service does."""

    service: str
    settings: LogSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSpec:
    config: EngineConfig
    rank: int
    inbox: str
    """ZMQ address where rank 0 takes the front's messages."""
    outbox: str
    """ZMQ address of the front's inbox; every rank may send a Fault there."""
    followers: tuple[str, ...]
    """Addresses where ranks 1… take steps, in order."""
    rendezvous: str
    """Path of the file through which the ranks find each other."""
    logs: RankLogs | None = None


def encode(spec: RankSpec) -> bytes:
    return msgspec.json.encode(spec) + b"\n"


def decode(line: bytes) -> RankSpec:
    return msgspec.json.decode(line, type=RankSpec)
