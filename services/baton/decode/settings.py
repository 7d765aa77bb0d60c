"""Everything that can be set of a decode (or unified) pod, as one tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from baton.core.errors import InvalidSetting
from baton.engine.config import EngineConfig
from baton.http.settings import HttpSettings
from baton.telemetry import LogSettings


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
class DecodeSettings:
    """Of `python -m baton.decode`."""

    role: Literal["unified"] = "unified"
    """unified computes prompts itself."""
    names: tuple[str, ...] = ()
    """What clients may call the model, the usual name first; none is engine.model."""
    tokenizer: str = ""
    """Directory or hub id of the tokenizer's files; none is engine.model."""
    generation_defaults: bool = True
    """Sample as the model's generation_config.json says where a request does not say."""
    engine: EngineConfig
    """The engine and its model."""
    http: HttpSettings = field(default_factory=HttpSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    logs: LogSettings = field(default_factory=LogSettings)

    @property
    def model_names(self) -> tuple[str, ...]:
        return self.names or (self.engine.model,)
