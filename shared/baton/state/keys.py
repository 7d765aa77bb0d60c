"""Every key that Baton keeps in Redis, in one place.

All keys of one worker share a hash tag, and so do the fleet's: in a Redis cluster each group lies on one
server. No command may name keys of two groups.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "v1"
"""Part of every key: raised when a value changes its meaning, so old and new readers never meet."""


@dataclass(frozen=True, slots=True)
class Keys:
    prefix: str = "baton"

    @property
    def workers(self) -> str:
        """Set of the ids of workers that may hold a lease."""
        return self._fleet("workers")

    @property
    def nudges(self) -> str:
        """Stream of a few entries: something changed, look now rather than at the next scan."""
        return self._fleet("nudges")

    @property
    def nothing(self) -> str:
        """Never there: by writing nothing to it a reader learns whether Redis takes writes."""
        return self._fleet("nothing")

    @property
    def loads(self) -> str:
        """Hash: router id → what that router has in flight."""
        return self._fleet("loads")

    def lease(self, worker: str) -> str:
        """The worker's last beat; expires."""
        return self._worker(worker, "lease")

    def facts(self, worker: str) -> str:
        """What seldom changes of a worker's lease, read again only when a beat says so."""
        return self._worker(worker, "facts")

    def events(self, worker: str, incarnation: str) -> str:
        """Stream of the pages that one run of a worker stored and evicted. Entry ids are `sequence-0`."""
        return self._worker(worker, f"events:{incarnation}")

    def pages(self, worker: str, incarnation: str) -> str:
        """Snapshot of the pages that one run of a worker held."""
        return self._worker(worker, f"pages:{incarnation}")

    def _fleet(self, name: str) -> str:
        return f"{{{self.prefix}}}:{VERSION}:{name}"

    def _worker(self, worker: str, name: str) -> str:
        return f"{self.prefix}:{VERSION}:{{{worker}}}:{name}"
