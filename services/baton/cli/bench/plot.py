"""`baton bench plot`: reports of `baton bench online` as one page that needs nothing else.

    baton bench plot baton.json vllm.json --out compared.html

Each report is one colour: time to the first token over the run, its distribution, and that of the time
per output token. One HTML file with its pictures inside; opens anywhere, prints, light or dark.
"""

from __future__ import annotations

import argparse
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from baton.cli.typed import output
from baton.core.errors import InvalidSetting

COLOURS = ("#2563eb", "#d97706", "#059669", "#c026d3", "#dc2626", "#0891b2")
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 44

Report = Mapping[str, Any]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One report in one picture."""

    name: str
    points: tuple[Point, ...]
    dots: bool = False


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    reports = {Path(file).stem: _read(Path(file)) for file in args.reports}
    output(args.out, "out").write_text(page(reports), encoding="utf-8")
    print(args.out)
    return 0


def page(reports: Mapping[str, Report]) -> str:
    """The whole file. `reports`: by the name each is shown under."""
    over_time = [Line(name, tuple(_over_time(report)), dots=True) for name, report in reports.items()]
    first = [Line(name, tuple(_shares(report, "ttft"))) for name, report in reports.items()]
    rest = [Line(name, tuple(_shares(report, "tpot"))) for name, report in reports.items()]
    pictures = [
        figure("Time to the first token, request by request", over_time, "s since the run began", "ms"),
        figure("Share of requests whose first token came within", first, "ms", "%"),
        figure("Share of requests whose later tokens took at most, on average", rest, "ms", "%"),
    ]
    template = Template(resources.files(__package__).joinpath("plot.html").read_text(encoding="utf-8"))
    return template.substitute(legend=_legend(reports), table=_table(reports), pictures="\n".join(pictures))


def _done(report: Report) -> list[Mapping[str, Any]]:
    return [one for one in report["requests"] if not one["error"]]


def _over_time(report: Report) -> list[Point]:
    return [(one["due"], one["ttft"] * 1e3) for one in _done(report)]


def _shares(report: Report, name: str) -> list[Point]:
    values = sorted(one[name] * 1e3 for one in _done(report) if name in one)
    return [(value, 100 * (rank + 1) / len(values)) for rank, value in enumerate(values)]


def figure(title: str, lines: Sequence[Line], across: str, up: str) -> str:
    """One picture as SVG, with what it shows in words for who cannot see it."""
    points = [point for line in lines for point in line.points]
    if not points:
        return (
            f"<figure><figcaption>{html.escape(title)}</figcaption><p>No request was completed.</p></figure>"
        )
    x_ticks = ticks(max(x for x, _ in points))
    y_ticks = [0.0, 25.0, 50.0, 75.0, 100.0] if up == "%" else ticks(max(y for _, y in points))
    x, y = _scale(x_ticks[-1], LEFT, WIDTH - RIGHT), _scale(y_ticks[-1], HEIGHT - BOTTOM, TOP)
    drawn = [_axes(x_ticks, y_ticks, x, y, across, up)]
    for place, line in enumerate(lines):
        drawn.append(_draw(line, COLOURS[place % len(COLOURS)], x, y))
    label = html.escape(f"{title}: {', '.join(line.name for line in lines)}")
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}</svg></figure>'
    )


def ticks(most: float) -> list[float]:
    """Four to eight round values from 0 to at least `most`."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    return [step * n for n in range(math.ceil(most / step - 1e-9) + 1)]


def _scale(most: float, begin: float, end: float) -> Callable[[float], float]:
    return lambda value: begin + (end - begin) * value / most


def _axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], x: Callable[[float], float],
    y: Callable[[float], float], across: str, up: str,
) -> str:  # fmt: skip
    parts = []
    for value in x_ticks:
        parts.append(
            f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        )
    for value in y_ticks:
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{across}</text>'
    )
    parts.append(f'<text x="8" y="{TOP - 4}">{up}</text>')
    return "".join(parts)


def _draw(line: Line, colour: str, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    if line.dots:
        return "".join(
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5" fill="{colour}" fill-opacity=".7"/>'
            for a, b in line.points
        )
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _legend(reports: Mapping[str, Report]) -> str:
    return "".join(
        f'<li><span style="background:{COLOURS[place % len(COLOURS)]}"></span>{html.escape(name)}</li>'
        for place, name in enumerate(reports)
    )


def _table(reports: Mapping[str, Report]) -> str:
    rows = []
    for name, report in reports.items():
        cells = [
            f"{report['completed']:,}",
            f"{report['failed']:,}",
            f"{report['output_tokens_per_second']:,.0f}",
        ]
        cells.append(f"{report['goodput_per_second']:.2f}")
        for spread in (report["ttft_ms"], report["tpot_ms"], report["itl_ms"]):
            cells.append(f"{spread['p50']:,.1f} / {spread['p99']:,.1f}" if spread else "")
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th><td>{"</td><td>".join(cells)}</td></tr>')
    return "".join(rows)


def _read(file: Path) -> Report:
    try:
        report: Report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSetting("REPORT", f"cannot read {file}: {error}") from error
    if not isinstance(report, dict) or "requests" not in report:
        raise InvalidSetting("REPORT", f"{file} is no report of `baton bench online --json`")
    return report


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("baton bench plot", description=__doc__, formatter_class=plain)
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="what `baton bench online --json` wrote")
    parser.add_argument("--out", default="bench.html", help="default bench.html")
    return parser
