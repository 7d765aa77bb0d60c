"""The page that `baton bench plot` draws: whole, well-formed, with what the reports say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from baton.cli.__main__ import main
from baton.cli.bench.plot import Line, figure, page, ticks


def report(**changes: Any) -> dict[str, Any]:
    spread = {"mean": 10.0, "p50": 9.0, "p90": 20.0, "p99": 30.0, "max": 31.0}
    requests = [
        {"due": n / 4, "ttft": 0.01 * (n + 1), "tpot": 0.002, "tokens": 8, "error": ""} for n in range(8)
    ]
    requests.append({"due": 2.0, "ttft": 0.0, "tpot": 0.0, "tokens": 0, "error": "HTTP 503"})
    base = {"completed": 8, "failed": 1, "output_tokens_per_second": 1234.5, "goodput_per_second": 3.5}
    return {**base, "ttft_ms": spread, "tpot_ms": spread, "itl_ms": spread, "requests": requests, **changes}


def test_runs_are_drawn_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ours", "theirs & others"):
        (tmp_path / f"{name}.json").write_text(json.dumps(report()))
    out = tmp_path / "both.html"
    files = [str(tmp_path / "ours.json"), str(tmp_path / "theirs & others.json")]
    assert main(["bench", "plot", *files, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text()
    assert "theirs &amp; others" in text and "theirs & others" not in text
    assert "1,234" in text and "9.0 / 30.0" in text
    assert "http" not in text.replace("HTTP", ""), "nothing is loaded from anywhere"
    assert text.count("<svg") == 3 and text.count("<polyline") == 4
    assert text.count("<circle") == 16, "a request that failed is not drawn as if it had been quick"


def test_a_picture_says_what_it_shows_and_stays_in_its_frame() -> None:
    drawn = figure("Latency", [Line("a", ((0.0, 0.0), (3.0, 70.0)))], "s", "ms")
    svg = ElementTree.fromstring(drawn).find("svg")
    assert svg is not None and svg.get("role") == "img" and svg.get("aria-label") == "Latency: a"
    line = svg.find("polyline")
    assert line is not None
    for point in (line.get("points") or "").split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 640 and 0 <= y <= 300


def test_nothing_completed_is_said() -> None:
    assert "No request was completed" in page({"x": report(requests=[], ttft_ms={}, tpot_ms={}, itl_ms={})})


@pytest.mark.parametrize("most", [0.0, 0.004, 1.0, 7.3, 99.0, 100.0, 12345.0])
def test_axes_have_few_round_numbers(most: float) -> None:
    found = ticks(most)
    assert found[0] == 0 and found[-1] >= most and 2 <= len(found) <= 9


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text(text)
    assert main(["bench", "plot", str(tmp_path / "x.json")]) == 2
    assert "REPORT: " in capsys.readouterr().err
