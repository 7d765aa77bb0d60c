"""The settings of a service's HTTP surface, the same for every service."""

from __future__ import annotations

from dataclasses import dataclass

from baton.core.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where a service listens, and how much of whom it puts up with."""

    host: str = "0.0.0.0"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free and logs it."""
    metrics_port: int = 0
    """A second port for /metrics and the probes alone; 0 serves /metrics on the first."""
    max_header_bytes: int = 65536
    """Largest head of a request: its line and headers together."""
    max_body_bytes: int = 8388608
    """Largest body of a request."""
    header_s: float = 10.0
    """How long a head may take to arrive, from connecting or from the head's first byte."""
    body_s: float = 30.0
    """How long a body may take to arrive."""
    keep_alive_s: int = 75
    """How long an idle connection stays open between two requests."""

    def __post_init__(self) -> None:
        for name in ("port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise InvalidSetting(name, f"must be between 0 and 65535, not {getattr(self, name)}")
        if self.metrics_port == self.port != 0:
            raise InvalidSetting("metrics_port", "must be 0 or differ from port")
        if self.max_header_bytes < 1024:
            raise InvalidSetting("max_header_bytes", f"must be 1024 or more, not {self.max_header_bytes}")
        for name in ("max_body_bytes", "header_s", "body_s", "keep_alive_s"):
            if getattr(self, name) <= 0:
                raise InvalidSetting(name, f"must be above 0, not {getattr(self, name)}")
