"""What values may say: each documented key and nothing else, and rules between them that name the path."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from tests.chart.charts import CHART, Refused, render

VALUES = (CHART / "values.yaml").read_text()
GPU = {"device": "cuda"}

TYPOS: list[dict[str, Any]] = [
    {"decodes": {}},
    {"decode": {"replica": 1}},
    {"decode": {"replicas": "two"}},
    {"decode": {"tensorParallel": 3}},
    {"device": "tpu"},
    {"model": {"dtype": "fp8"}},
    {"kv": {"pageSize": 0}},
    {"image": {"digests": {"router": "latest"}}},
    {"transfer": {"rdma": {"memlock": "root"}}},
    {"redis": {"url": "elsewhere:6379"}},
    {"modelCache": {"type": "s3"}},
    {"modelCache": {"size": "100gi"}},
    {"modelCache": {"size": "64ki"}},
]

TAKEN: list[dict[str, Any]] = [
    {"redis": {"url": "rediss+sentinel://a:26379,b:26379/fleet"}},
    {"redis": {"url": "rediss+cluster://a:6379"}},
    {"decode": {"shmSize": "65536Ki"}},
    {"decode": {"shmSize": "1.5Gi"}},
]

RULES: dict[str, tuple[dict[str, Any], str]] = {
    "no redis": ({"redis": {"embedded": {"enabled": False}}}, "redis.existingSecret"),
    "two redis": ({"redis": {"url": "redis://a", "existingSecret": "b"}}, "exclude each other"),
    "password": ({"redis": {"url": "redis://:secret@host"}}, "belongs in a secret"),
    "drain": ({"router": {"drainSeconds": 10}}, "at least decode.drainSeconds (300)"),
    "tiny weights": ({"model": {"loadFormat": "dummy"}}, "model.loadFormat"),
    "path": ({"model": {"id": "/srv/model"}}, "not below modelCache.mountPath"),
    "host path": ({"modelCache": {"type": "hostPath"}}, "modelCache.hostPath"),
    "claim": ({"modelCache": {"existingClaim": "models"}}, "needs modelCache.type pvc"),
    "empty claim": ({"modelCache": {"type": "pvc", "readOnly": True}}, "must be there already"),
    "rdma on cpu": ({"transfer": {"rdma": {"enabled": True}}}, "need device cuda"),
    "rdma name": (GPU | {"transfer": {"rdma": {"enabled": True, "resourceName": ""}}}, "resourceName"),
    "whose gpu": (
        GPU | {"transfer": {"nvlink": {"enabled": True, "devices": "runtime"}}},
        "prefill.gpu.visibleDevices and decode.gpu.visibleDevices",
    ),
    "account": ({"discovery": "kubernetes", "serviceAccount": {"create": False}}, "serviceAccount.name"),
    "least": ({"decode": {"autoscaling": {"minReplicas": 9}}}, "decode.autoscaling.minReplicas"),
    "prometheus": ({"prefill": {"autoscaling": {"enabled": True}}}, "prefill.autoscaling.keda.serverAddress"),
    "shared fact": ({"decode": {"config": {"engine": {"page_size": 32}}}}, "decode.config.engine.page_size"),
    "shared bits": (
        {"prefill": {"config": {"engine": {"kv_cache_dtype": "fp8"}}}},
        "prefill.config.engine.kv_cache_dtype",
    ),
    "port": ({"decode": {"config": {"http": {"port": 80}}}}, "decode.config.http: leave out"),
    "metrics": ({"router": {"config": {"http": {"metrics_port": 80}}}}, "router.config.http: leave out"),
    "grace": ({"prefill": {"config": {"drain_s": 900}}}, "prefill.drainSeconds"),
    "limit": ({"decode": {"config": {"limits": {"drain_s": 900}}}}, "decode.drainSeconds"),
    "gpu on cpu": ({"decode": {"gpu": {"visibleDevices": "0"}}}, "needs device cuda"),
    "gpu count": (GPU | {"decode": {"gpu": {"visibleDevices": "0,1"}}}, "another number of GPUs"),
}


@pytest.mark.parametrize("values", TYPOS, ids=json.dumps)
def test_the_schema_refuses_what_is_no_value(values: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        render(values)


@pytest.mark.parametrize("values", TAKEN, ids=json.dumps)
def test_the_schema_takes_what_the_services_and_kubernetes_do(values: dict[str, Any]) -> None:
    assert render(values)


@pytest.mark.parametrize("rule", RULES)
def test_rules_between_values_name_the_path(rule: str) -> None:
    values, message = RULES[rule]
    with pytest.raises(Refused) as refused:
        render(values)
    assert message in str(refused.value)


def test_a_parent_chart_may_pass_globals() -> None:
    assert render({"global": {"anything": 1}})


def _paths(tree: dict[str, Any], above: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found.append(f"{above}{key}")
        if isinstance(value, dict):
            found += _paths(value, f"{above}{key}.")
    return found


def test_the_schema_knows_exactly_the_documented_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(part: dict[str, Any], above: str) -> list[str]:
        part = schema["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        found = []
        for key, inner in part.get("properties", {}).items():
            found += [f"{above}{key}", *walk(inner, f"{above}{key}.")]
        return found

    known = set(walk(schema, ""))
    documented = set(_paths(yaml.safe_load(VALUES)))
    free = re.compile(r"(resources|labels|image\.digests)\.")
    assert {path for path in documented - known if not free.search(path)} == set()
    assert {path for path in known - documented if not free.search(path)} == {"global"}


def test_comments_name_keys_that_exist() -> None:
    documented = set(_paths(yaml.safe_load(VALUES)))
    named = re.findall(r"^\s*# ([A-Za-z.]+) -- ", VALUES, re.MULTILINE)
    assert len(named) > 80 and set(named) <= documented


def test_roles_have_the_same_keys_in_the_same_order() -> None:
    values = yaml.safe_load(VALUES)
    assert list(values["prefill"]) == list(values["decode"])
    common = [key for key in values["router"] if key in values["decode"]]
    assert common == [key for key in values["decode"] if key in common]


def test_values_hold_no_secret() -> None:
    named = [
        path for path in _paths(yaml.safe_load(VALUES)) if re.search("(?i)password|token$|apikey$", path)
    ]
    assert named == []
