"""Every config file that the chart renders is one that the service itself loads: same names, same types."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from tests.chart.charts import config, every, find, render

from baton.core.errors import InvalidSetting
from baton.core.settings import load

CASES = every()
SETTINGS = {
    "router": "baton.router.settings:RouterSettings",
    "prefill": "baton.prefill.settings:PrefillSettings",
    "decode": "baton.decode.settings:DecodeSettings",
}


def _schema(component: str) -> type:
    module, _, name = SETTINGS[component].partition(":")
    found: type = getattr(import_module(module), name)
    return found


@pytest.mark.parametrize("component", SETTINGS)
@pytest.mark.parametrize("case", CASES)
def test_the_service_loads_what_the_chart_renders(case: str, component: str, tmp_path: Path) -> None:
    objects = render(CASES[case])
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config(objects, component)))
    container = find(objects, "Deployment", f"demo-baton-{component}")["spec"]["template"]["spec"][
        "containers"
    ][0]
    environ = {
        one["name"]: one.get("value", "x") for one in container["env"] if one["name"].startswith("BATON_")
    }
    assert load(_schema(component), file=file, environ=environ).settings


@pytest.mark.parametrize("component", SETTINGS)
def test_every_service_is_told_where_spans_go(component: str, tmp_path: Path) -> None:
    url, file = "http://otel-collector.observability:4318", tmp_path / "config.json"
    file.write_text(json.dumps(config(render({"tracing": {"otlpEndpoint": url, "sample": 0.1}}), component)))
    trace = load(_schema(component), file=file, environ={}).settings.trace  # type: ignore[attr-defined]
    assert (trace.endpoint, trace.sample) == (url, 0.1)
    assert "trace" not in config(render(), component)


def test_a_name_that_no_setting_has_is_found(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config(render({"decode": {"config": {"limits": {"drian_s": 1}}}}), "decode")))
    with pytest.raises(InvalidSetting, match="drian_s"):
        load(_schema("decode"), file=file)
