"""Renders the chart without a cluster: with a `helm` that is on the PATH, or with the SDK that pip brings."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "baton"
KUBERNETES = "1.34.0"

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm would not render these values; the text says why."""


def render(
    values: Mapping[str, Any] | None = None, *, release: str = "demo", namespace: str = "default"
) -> list[Manifest]:
    """Every object of a release with these values, test hooks included."""
    found: list[Manifest] = json.loads(_rendered(json.dumps(values or {}), release, namespace))
    return found


@cache
def _rendered(values: str, release: str, namespace: str) -> str:
    """As JSON, which is quicker to read again than YAML."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    objects = yaml.load_all(template(json.loads(values), release, namespace), Loader=loader)
    return json.dumps([one for one in objects if one])


def template(values: Mapping[str, Any], release: str, namespace: str) -> str:
    if helm := shutil.which("helm"):
        return _by_binary(helm, values, release, namespace)
    return _by_sdk(values, release, namespace)


def _by_binary(helm: str, values: Mapping[str, Any], release: str, namespace: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        command = [helm, "template", release, str(CHART), "--namespace", namespace, "--values", file.name]
        done = subprocess.run(
            [*command, "--kube-version", KUBERNETES], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def _by_sdk(values: Mapping[str, Any], release: str, namespace: str) -> str:
    made = _made(values, release, namespace)
    return "\n---\n".join(text for path, text in sorted(made.items()) if not path.endswith("NOTES.txt"))


def _made(values: Mapping[str, Any], release: str, namespace: str) -> dict[str, str]:
    """Path of a template → what it renders to."""
    import helm_python

    with helm_python.Chart.load(str(CHART)) as chart:
        try:
            chart.validate_schema(chart.merge_values(dict(values)))
            made: dict[str, str] = chart.render(dict(values), name=release, namespace=namespace)
        except helm_python.HelmError as error:
            raise Refused(str(error)) from error
    return made


def lint(values: Mapping[str, Any]) -> list[str]:
    """What `helm lint --strict` would refuse."""
    import helm_python

    told: dict[str, list[str]] = helm_python.lint(
        str(CHART), dict(values), strict=True, kube_version=KUBERNETES
    )
    return told["errors"]


def notes(values: Mapping[str, Any]) -> str:
    """What is shown after an installation."""
    (text,) = (text for path, text in _made(values, "demo", "default").items() if path.endswith("NOTES.txt"))
    return text


def find(objects: list[Manifest], kind: str, name: str) -> Manifest:
    found = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    assert len(found) == 1, [f"{one['kind']}/{one['metadata']['name']}" for one in objects]
    return found[0]


def kinds(objects: list[Manifest], kind: str) -> list[str]:
    return sorted(one["metadata"]["name"] for one in objects if one["kind"] == kind)


def config(objects: list[Manifest], component: str, release: str = "demo") -> dict[str, Any]:
    """What this component would read at its start."""
    found: dict[str, Any] = json.loads(
        find(objects, "ConfigMap", f"{release}-baton-{component}")["data"]["config.json"]
    )
    return found


def pod_specs(objects: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that these objects make, by `kind/name`."""
    for one in objects:
        where = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield where, one["spec"]
        elif one["kind"] in ("Deployment", "Job"):
            yield where, one["spec"]["template"]["spec"]


def profile(name: str) -> dict[str, Any]:
    """The values of one of manifests/."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "manifests" / name / "values.yaml").read_text())
    return loaded


PROFILES = sorted(path.parent.name for path in (ROOT / "manifests").glob("*/values.yaml"))

SWITCHES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "kubernetes": {"discovery": "kubernetes"},
    "policies": {"networkPolicy": {"enabled": True, "egress": True, "routerFrom": [{"podSelector": {}}]}},
    "monitoring": {"metrics": {"podMonitor": {"enabled": True}, "dashboards": {"enabled": True}}},
    "keys": {"router": {"apiKeys": {"existingSecret": "keys"}}},
    "secrets": {
        "redis": {"existingSecret": "redis", "embedded": {"enabled": False}},
        "transfer": {"existingSecret": "word"},
        "huggingface": {"existingSecret": "hf"},
    },
    "ingress": {
        "router": {
            "ingress": {"enabled": True, "hosts": ["a.example"], "tls": [{"hosts": ["a.example"]}]},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["a.example"]},
        }
    },
    "claim": {
        "model": {"id": "/models/qwen", "names": ["qwen"]},
        "modelCache": {"type": "pvc", "storageClassName": ""},
        "redis": {"embedded": {"persistence": {"enabled": True}}},
    },
    "hub": {
        "model": {"id": "Qwen/Qwen3-0.6B", "quantization": "fp8"},
        "kv": {"dtype": "fp8"},
        "modelCache": {"type": "hostPath", "hostPath": "/srv"},
    },
    "scaling": {
        "router": {"autoscaling": {"enabled": True}},
        "prefill": {"autoscaling": {"enabled": True, "kind": "hpa", "minReplicas": 2}},
        "decode": {"autoscaling": {"enabled": True, "keda": {"serverAddress": "http://prometheus"}}},
    },
    "load": {
        "loadtest": {
            "enabled": True, "reportClaim": "reports",
            "extraEnv": [{"name": "BATON_LOAD_MIX", "value": "chat"}],
        }
    },
    "cuda": {"device": "cuda", "decode": {"tensorParallel": 2}, "prefill": {"replicas": 2}},
    "rdma": {"device": "cuda", "transfer": {"rdma": {"enabled": True, "memlock": "capability"}}},
    "nvlink": {"device": "cuda", "transfer": {"nvlink": {"enabled": True, "hostPID": True}}},
    "runtime": {
        "device": "cuda",
        "transfer": {"nvlink": {"enabled": True, "devices": "runtime"}},
        "prefill": {"gpu": {"visibleDevices": "0"}},
        "decode": {"gpu": {"visibleDevices": "1"}},
    },
    "extras": {
        "commonLabels": {"team": "serving"},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"registry": "registry.example/x", "digests": {"router": "sha256:" + "0" * 64}},
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}}
        ],
        "router": {"extraEnv": [{"name": "A", "value": "b"}], "podLabels": {"x": "y"}},
        "decode": {
            "podAnnotations": {"a": "b"}, "nodeSelector": {"pool": "decode"}, "priorityClassName": "high",
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "podOverrides": {"dnsPolicy": "Default"},
        },
    },
}  # fmt: skip
"""One set of values per switch of the chart."""

OPENED = {"rdma", "nvlink", "single-node"}
"""Of those and of the profiles, what leaves the restricted Pod Security profile, as it says."""


def every() -> dict[str, dict[str, Any]]:
    return {**SWITCHES, **{name: profile(name) for name in PROFILES}}
