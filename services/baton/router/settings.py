"""Everything that can be set of a router, as one tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from baton.core.errors import InvalidSetting
from baton.http import HttpSettings
from baton.router.placement import PlacementSettings
from baton.state import StateSettings
from baton.telemetry import LogSettings
from baton.trace import TraceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What is served. Lengths, vocabulary and page size come from the pods."""

    tokenizer: str = ""
    """Directory or hub id of the model's tokenizer files."""
    names: tuple[str, ...] = ()
    """What clients may call the model, the usual name first; none is what the pods call it."""
    generation_defaults: bool = True
    """Sample as the model's generation_config.json says where a request does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySettings:
    """How pods are found."""

    source: Literal["leases", "kubernetes"] = "leases"
    """leases: those that keep a lease in Redis; kubernetes: those that the API server lists, which needs no
    Redis, though without one requests are placed by load alone."""
    namespace: str = ""
    """Of the pods; empty is the router's own."""
    selector: str = "app.kubernetes.io/name=baton,app.kubernetes.io/component in (prefill,decode)"
    """Label selector of prefill, decode and unified pods."""
    api: str = ""
    """http(s)://host:port of the API server; empty is the one that the cluster names."""
    port_name: str = "http"
    """Name of the container port that a pod serves HTTP on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """Who may ask."""

    file: str = ""
    """One key a line, `name:key[:rate[:concurrency[:priority[:operator]]]]`; read again when it changes. Rate
    (requests a second) and concurrency are what each router process allows. Only keys marked `operator` may
    see /debug/* and the page's feed. Empty lets everybody in."""
    shared_cache: bool = False
    """Whether keys may find each other's prefixes cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsSettings:
    """Which pages of other sites may call from a browser."""

    origins: tuple[str, ...] = ()
    """https://host of each, or *; none forbids it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionSettings:
    """How many requests are under way, and how many wait. Of each worker process."""

    max_running: int = 4096
    """Requests sent to pods at the same time; more wait."""
    max_queued: int = 4096
    """Requests that wait; more are refused with 429."""

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise InvalidSetting("max_running", f"must be 1 or more, not {self.max_running}")
        if self.max_queued < 0:
            raise InvalidSetting("max_queued", f"must be 0 or more, not {self.max_queued}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """What happens when pods fail."""

    tries: int = 6
    """Pods that may lose one request before its client is told; those that cannot be reached do not count."""
    share: float = 0.2
    """Second and later retries, as a share of all requests; the first is free."""
    burst: int = 200
    """Such retries beyond the share, after a quiet time."""
    wait_s: float = 10.0
    """How long a request waits for a pod to take it when none does, within its deadline."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise InvalidSetting("tries", f"must be 1 or more, not {self.tries}")
        for name in ("share", "burst", "wait_s"):
            if getattr(self, name) < 0:
                raise InvalidSetting(name, f"must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """How long things may take."""

    deadline_s: float = 600.0
    """How long a request may take in all; a client may ask for less (x-baton-deadline-ms)."""
    drain_s: float = 30.0
    """How long open requests may go on after SIGTERM."""

    def __post_init__(self) -> None:
        if self.deadline_s <= 0:
            raise InvalidSetting("deadline_s", f"must be above 0, not {self.deadline_s}")
        if self.drain_s < 0:
            raise InvalidSetting("drain_s", f"must be 0 or more, not {self.drain_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UiSettings:
    """The page at /ui/."""

    enabled: bool = True
    """Whether it is served."""
    port: int = 0
    """A port of its own, which serves the whole API too, since the page asks it; 0 serves it on the first."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidSetting("port", f"must be between 0 and 65535, not {self.port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Of `python -m baton.router`."""

    workers: int = 1
    """Processes that share the port."""
    http: HttpSettings = field(default_factory=HttpSettings)
    state: StateSettings = field(default_factory=StateSettings)
    discovery: DiscoverySettings = field(default_factory=DiscoverySettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    keys: KeySettings = field(default_factory=KeySettings)
    cors: CorsSettings = field(default_factory=CorsSettings)
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    ui: UiSettings = field(default_factory=UiSettings)
    trace: TraceSettings = field(default_factory=TraceSettings)
    logs: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidSetting("workers", f"must be 1 or more, not {self.workers}")
        if not self.model.tokenizer:
            raise InvalidSetting("model.tokenizer", "must name the model's tokenizer: a directory or hub id")
