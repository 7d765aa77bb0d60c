"""Where Redis is and how long one call to it may take. Read by every service; secrets are never shown."""

from __future__ import annotations

import re
from dataclasses import dataclass

from baton.core.errors import InvalidSetting
from baton.core.settings import secret

PREFIX = re.compile(r"[A-Za-z0-9_.:-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings:
    """How a process reaches what the cluster knows."""

    url: str = secret("")
    """Empty: without Redis. Else redis://[user:password@]host:port/db, rediss:// for TLS, unix://path;
    redis+sentinel://host:port,host:port/service[/db]; redis+cluster://host:port. It may hold a password.
    Redis 6.2 or newer."""
    password: str = secret("")
    """Overrides the URL's; for platforms that hand out secrets one by one."""
    sentinel_password: str = secret("")
    """Of the sentinels themselves, where they ask for one."""
    ca_file: str = ""
    """Certificates that may sign the server's, for rediss; empty trusts the system's."""
    certificate_file: str = ""
    """This process's own certificate, where the server asks for one."""
    key_file: str = ""
    """The private key of certificate_file."""
    prefix: str = "baton"
    """Begins every key. Fleets that share a Redis and not a model need one each."""
    deadline_s: float = 1.0
    """Longest wait for one answer."""

    def __post_init__(self) -> None:
        if not PREFIX.fullmatch(self.prefix):
            raise InvalidSetting("prefix", "must be of letters, digits, dots, colons, dashes, underscores")
        if not 0.0 < self.deadline_s <= 60.0:
            raise InvalidSetting("deadline_s", f"must be above 0 and at most 60, not {self.deadline_s}")
