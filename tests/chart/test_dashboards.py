"""Dashboards and autoscalers ask for metrics that services export."""

from __future__ import annotations

import json
import re

from tests.chart.charts import CHART, ROOT, kinds, render

METRIC = re.compile(r"\b(baton_[a-z_]+|vllm:[a-z_]+)\b")
EXPORTED = re.compile(r'"((?:baton_|vllm:)[a-z_]+)"')
SUFFIXES = ("_bucket", "_count", "_sum")


def _exported() -> set[str]:
    sources = [path.read_text() for part in ("services", "shared") for path in (ROOT / part).rglob("*.py")]
    found = {name for text in sources for name in EXPORTED.findall(text)}
    # Familiar names are written without their prefix.
    return found | {f"vllm:{name}" for text in sources for name in re.findall(r'gauge\(\s*"(\w+)"', text)}


def _unknown(text: str) -> set[str]:
    exported = _exported()
    asked = set(METRIC.findall(text))
    return {name for name in asked if name not in exported and not name.endswith(SUFFIXES)} | {
        name for name in asked if name.endswith(SUFFIXES) and name.rpartition("_")[0] not in exported
    }


def test_dashboards_ask_for_what_is_exported() -> None:
    for path in sorted((CHART / "dashboards").glob("*.json")):
        panels = json.loads(path.read_text())["panels"]
        text = "\n".join(target["expr"] for panel in panels for target in panel["targets"])
        assert panels and _unknown(text) == set(), path.name


def test_autoscalers_ask_for_what_is_exported() -> None:
    assert _unknown((CHART / "templates" / "_scale.tpl").read_text()) == set()
    assert _unknown("sum(baton_no_such_metric)") == {"baton_no_such_metric"}


def test_each_dashboard_is_a_configmap() -> None:
    objects = render({"metrics": {"dashboards": {"enabled": True}}})
    names = [name for name in kinds(objects, "ConfigMap") if "dashboard" in name]
    assert len(names) == len(list((CHART / "dashboards").glob("*.json"))) == 2
