"""Figures of one `/metrics`, asked for by name. Pure; the difference of two is what happened in between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
"""Of one series."""
Series = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Figures:
    values: Mapping[Series, float] = field(default_factory=dict)

    @staticmethod
    def read(text: str) -> Figures:
        """Prometheus's text format. Raises ValueError when it is none."""
        return Figures(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def total(self, name: str, **labels: str) -> float:
        """The sum over every series of this name that has these labels; 0 when there is none."""
        wanted = labels.items()
        return sum(v for (n, found), v in self.values.items() if n == name and wanted <= set(found))

    def has(self, name: str) -> bool:
        return any(found == name for found, _ in self.values)

    def each(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Every series of this name: its labels and its value."""
        return [(dict(labels), value) for (found, labels), value in self.values.items() if found == name]

    def since(self, before: Figures) -> Figures:
        """How much each series grew; what shrank began again from 0. A router's process that was not heard
        before counts from the next look on: nobody knows what of it is new."""
        grown, heard = {}, {process for series in before.values if (process := _process(series))}
        for series, value in self.values.items():
            if (process := _process(series)) and process not in heard:
                continue
            old = before.values.get(series, 0.0)
            grown[series] = value - old if value >= old else value
        return Figures(grown)

    def quantile(self, name: str, share: float) -> float | None:
        """Of a histogram; None when nothing was observed. Interpolated inside a bucket."""
        bounds = self._buckets(name)
        count = bounds[-1][1] if bounds else 0.0
        if count <= 0:
            return None
        wanted, below, passed = share * count, 0.0, 0.0
        for bound, cumulative in bounds:
            if cumulative >= wanted:
                if math.isinf(bound):
                    return below
                inside = cumulative - passed
                return below + (bound - below) * ((wanted - passed) / inside if inside else 1.0)
            below, passed = bound, cumulative
        return below

    def _buckets(self, name: str) -> list[tuple[float, float]]:
        """(upper bound, observations up to it), series of different labels together."""
        sums: dict[float, float] = {}
        for labels, value in self.each(f"{name}_bucket"):
            bound = float(labels["le"])
            sums[bound] = sums.get(bound, 0.0) + value
        return sorted(sums.items())


def together(several: Iterable[Figures]) -> Figures:
    """One process's worth of several: equal series added."""
    sums: dict[Series, float] = {}
    for figures in several:
        for series, value in figures.values.items():
            sums[series] = sums.get(series, 0.0) + value
    return Figures(sums)


def _process(series: Series) -> str:
    """Which of several behind one port told it; empty where there is one."""
    return dict(series[1]).get("process", "")
