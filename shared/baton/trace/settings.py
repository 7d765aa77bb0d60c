"""What can be set of traces, the same for every service."""

from __future__ import annotations

from dataclasses import dataclass

from baton.core.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Distributed traces."""

    endpoint: str = ""
    """Where spans are sent, as OTLP over HTTP: http://COLLECTOR:4318; empty sends none."""
    sample: float = 1.0
    """Share of requests that are traced, 0 to 1. Who comes with a `traceparent` has been decided upon."""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            wrong = f"must be http:// or https:// (OTLP over HTTP), not {self.endpoint!r}"
            raise InvalidSetting("endpoint", wrong)
        if not 0 <= self.sample <= 1:
            raise InvalidSetting("sample", f"must be from 0 to 1, not {self.sample}")
