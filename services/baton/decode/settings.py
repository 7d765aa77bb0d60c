"""Everything that can be set of a decode (or unified) pod, as one tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from baton.core.errors import InvalidSetting
from baton.core.settings import secret
from baton.engine.config import EngineConfig
from baton.http.settings import HttpSettings
from baton.membership import PodSettings
from baton.state import StateSettings
from baton.telemetry import LogSettings
from baton.trace import TraceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How much work a pod takes on, and for how long."""

    max_requests: int = 4096
    """HTTP requests served at the same time; more are refused with 429."""
    deadline_s: float = 600.0
    """How long a request may take in all; a client may ask for less (x-baton-deadline-ms)."""
    drain_s: float = 30.0
    """How long open requests may go on after SIGTERM."""

    def __post_init__(self) -> None:
        if self.max_requests < 1:
            raise InvalidSetting("max_requests", f"must be 1 or more, not {self.max_requests}")
        if self.deadline_s <= 0:
            raise InvalidSetting("deadline_s", f"must be above 0, not {self.deadline_s}")
        if self.drain_s < 0:
            raise InvalidSetting("drain_s", f"must be 0 or more, not {self.drain_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffSettings:
    """How prompts are handed over by prefill pods."""

    prefill: tuple[str, ...] = ()
    """Where prefill pods listen for legs: tcp://host:port of each. With a Redis others are found besides."""
    secret: str = secret("")
    """Shared by all pods: whoever does not know it is not answered. Empty asks nobody for it."""
    local_below: int | Literal["auto"] = "auto"
    """Uncached prompt tokens below which this pod computes a prompt itself; auto (or 0) is as many as take it
    less time than a hand-over takes before its first token, both as measured."""
    allow_local: bool = True
    """Whether this pod computes prompts itself when no prefill pod can."""
    tries: int = 2
    """Prefill pods that are asked before that."""
    timeout_s: float = 60.0
    """How long one of them may take."""

    def __post_init__(self) -> None:
        for name in ("local_below", "tries"):
            number = getattr(self, name)
            if isinstance(number, int) and number < 0:
                raise InvalidSetting(name, f"must be 0 or more, not {number}")
        if self.timeout_s <= 0:
            raise InvalidSetting("timeout_s", f"must be above 0, not {self.timeout_s}")
        for address in self.prefill:
            port = address.rpartition(":")[2].isdecimal()
            if not (address.startswith("ipc://") or (address.startswith("tcp://") and port)):
                raise InvalidSetting("prefill", f"must be tcp://host:port of each, not {address!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """Of `python -m baton.decode`."""

    role: Literal["unified", "decode"] = "unified"
    """unified computes prompts itself; decode has them computed by prefill pods."""
    handoff: HandoffSettings = field(default_factory=HandoffSettings)
    """Who prefills, in the role decode."""
    names: tuple[str, ...] = ()
    """What clients may call the model, the usual name first; none is engine.model."""
    generation_defaults: bool = True
    """Sample as the model's generation_config.json says where a request does not say."""
    engine: EngineConfig
    """The engine and its model."""
    http: HttpSettings = field(default_factory=HttpSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    pod: PodSettings = field(default_factory=PodSettings)
    state: StateSettings = field(default_factory=StateSettings)
    trace: TraceSettings = field(default_factory=TraceSettings)
    logs: LogSettings = field(default_factory=LogSettings)

    @property
    def model_names(self) -> tuple[str, ...]:
        return self.names or (self.engine.model,)
