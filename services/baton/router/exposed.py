"""What /metrics answers: this process's figures, or those of all processes that share its port.

Whichever of them is asked asks the others. Each keeps its own series, told apart by the label `process`:
sums and rates work as they do over replicas, and no figure's meaning depends on how it was merged.
"""

from __future__ import annotations

import asyncio

from baton.core.errors import PeerLost
from baton.router.gauges import Gauges
from baton.router.wire import Origin, Pool, fetch
from baton.telemetry import Metrics

SECONDS = 2.0


class Exposed:
    def __init__(self, metrics: Metrics, gauges: Gauges, pool: Pool, siblings: tuple[int, ...]) -> None:
        """`siblings`: loopback ports of all processes by number; none when there is only this one."""
        self._metrics = metrics
        self._gauges = gauges
        self._pool = pool
        self._siblings = siblings

    def own(self) -> bytes:
        self._gauges.set()
        return self._metrics.render()

    async def all(self) -> bytes:
        if not self._siblings:
            return self.own()
        told = await asyncio.gather(*(self._ask(port) for port in self._siblings))
        return merged({str(number): text for number, text in enumerate(told) if text})

    async def _ask(self, port: int) -> str:
        """Empty from one that is being started again."""
        try:
            _, body = await fetch(self._pool, Origin("127.0.0.1", port), "/metrics", seconds=SECONDS)
        except PeerLost:
            return ""
        return body.decode()


def merged(texts: dict[str, str]) -> bytes:
    """Prometheus texts by process as one, each sample labelled with its process."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for process, text in texts.items():
        about: list[str] = []
        samples: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                about, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
            if line.startswith("#"):
                if len(about) < 2:
                    about.append(line)
            elif line:
                samples.append(_labelled(line, process))
    lines = [line for about, samples in families.values() for line in (*about, *samples)]
    return "\n".join([*lines, ""]).encode()


def _labelled(sample: str, process: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{process="{process}",{rest}'
    name, value = sample.split(" ", 1)
    return f'{name}{{process="{process}"}} {value}'
