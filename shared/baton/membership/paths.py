"""What the paths to other pods gave when they were measured, as one figure for each pod."""

from __future__ import annotations

from baton.protocol.engine import Path


class Bandwidths:
    def __init__(self) -> None:
        self._measured: dict[str, tuple[str, dict[int, float]]] = {}
        """Pod → its incarnation, and the slowest path of each rank of ours in GB/s."""

    def note(self, pod: str, path: Path) -> None:
        """Take in one path, of one rank here to one there."""
        worker, ranks = self._measured.get(pod, ("", {}))
        if worker != path.worker:
            worker, ranks = path.worker, {}
        ranks[path.rank] = min(path.write_gb_s, ranks.get(path.rank, path.write_gb_s))
        self._measured[pod] = worker, ranks

    def forget(self, pod: str) -> None:
        self._measured.pop(pod, None)

    def __call__(self) -> dict[str, float]:
        """Pod → GB/s of all ranks here together: each moves its own heads of a page, side by side."""
        return {pod: round(sum(ranks.values()), 3) for pod, (_, ranks) in self._measured.items()}
