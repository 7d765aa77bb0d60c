"""What /metrics answers: this process's figures, or those of all processes that share its port.

Whichever of them is asked asks the others. Each keeps its own series, told apart by the label `process`:
sums and rates work as they do over replicas, and no figure's meaning depends on how it was merged.
"""

from __future__ import annotations

from baton.router.gauges import Gauges
from baton.router.siblings import Siblings
from baton.telemetry import Metrics

PATH = "/metrics"


class Exposed:
    def __init__(self, metrics: Metrics, gauges: Gauges, siblings: Siblings) -> None:
        self._metrics = metrics
        self._gauges = gauges
        self._siblings = siblings

    def own(self) -> bytes:
        self._gauges.set()
        return self._metrics.render()

    async def all(self) -> bytes:
        if not self._siblings.ports:
            return self.own()
        told = await self._siblings.ask(PATH)
        told[self._siblings.number] = self.own()
        return merged({str(number): told[number].decode() for number in sorted(told)})


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
