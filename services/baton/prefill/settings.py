"""Everything that can be set of a prefill pod, as one tree."""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.core.errors import InvalidSetting
from baton.core.settings import secret
from baton.engine.config import EngineConfig
from baton.http import HttpSettings
from baton.membership import PodSettings
from baton.state import StateSettings
from baton.telemetry import LogSettings
from baton.trace import TraceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillSettings:
    """Of `python -m baton.prefill`."""

    listen: str = "tcp://0.0.0.0:5600"
    """Where decode pods ask for legs, as ZMQ writes it."""
    secret: str = secret("")
    """Shared by all pods: whoever does not know it is not answered. Empty asks nobody for it."""
    drain_s: float = 30.0
    """How long open legs may go on after SIGTERM."""
    engine: EngineConfig
    """The engine and its model."""
    http: HttpSettings = field(default_factory=lambda: HttpSettings(port=8001))
    """Probes and metrics."""
    pod: PodSettings = field(default_factory=PodSettings)
    state: StateSettings = field(default_factory=StateSettings)
    trace: TraceSettings = field(default_factory=TraceSettings)
    logs: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        if not self.listen.startswith(("tcp://", "ipc://")):
            raise InvalidSetting("listen", f"must be tcp://host:port, not {self.listen!r}")
        if self.drain_s < 0:
            raise InvalidSetting("drain_s", f"must be 0 or more, not {self.drain_s}")
