"""Who a pod is and where others find it. Read by every pod; a chart fills it from the pod's own fields."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from baton.core.errors import InvalidSetting
from baton.state.lease import ID


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSettings:
    """What a pod is called, and where it runs."""

    id: str = ""
    """Its name, which no other pod of the fleet has; empty takes the host's. In Kubernetes the pod's name."""
    host: str = "127.0.0.1"
    """Name or address at which routers and other pods reach it."""
    node: str = ""
    """The machine it runs on."""
    zone: str = ""
    """That machine's zone."""
    generation: str = ""
    """Label of the rollout it belongs to; pods of two generations exchange no pages."""

    def __post_init__(self) -> None:
        if self.id and not ID.fullmatch(self.id):
            raise InvalidSetting("id", f"must be letters, digits, dots, colons, dashes; not {self.id!r}")
        if not self.host or "/" in self.host:
            raise InvalidSetting("host", f"must be a name or an address, not {self.host!r}")

    @property
    def name(self) -> str:
        return self.id or socket.gethostname()

    def http(self, port: int) -> str:
        """The URL under which others reach a port of this pod."""
        return f"http://{self._bracketed}:{port}"

    def control(self, bound: str) -> str:
        """The address under which others reach what is bound there (tcp://0.0.0.0:5600)."""
        if not bound.startswith("tcp://"):
            return bound
        return f"tcp://{self._bracketed}:{urlsplit(bound).port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host
