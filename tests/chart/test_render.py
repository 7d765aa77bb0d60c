"""Every switch of the chart makes objects that Kubernetes would take, with and without its neighbours."""

from __future__ import annotations

import json
import re
import shlex

import kubernetes_validate
import pytest
from tests.chart.charts import (
    CHART,
    SWITCHES,
    Refused,
    config,
    every,
    find,
    kinds,
    lint,
    notes,
    pod_specs,
    render,
)

from baton.cli.smoke import parser as smoke_parser

CUSTOM = {"ScaledObject", "PodMonitor", "HTTPRoute"}
"""Kinds of other projects, for which Kubernetes has no schema."""
CASES = every()


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_and_named_once(case: str) -> None:
    objects = render(CASES[case])
    for one in objects:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, "1.34", strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    assert all("namespace" not in one["metadata"] for one in objects)


def test_strict_validation_sees_a_field_that_does_not_exist() -> None:
    pod = find(render(), "Deployment", "demo-baton-decode")
    pod["spec"]["template"]["spec"]["containers"][0]["prts"] = []
    with pytest.raises(Exception, match="prts"):
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_the_longest_names_fit() -> None:
    objects = render(
        {"loadtest": {"enabled": True}, "metrics": {"dashboards": {"enabled": True}}}, release="r" * 53
    )
    assert max(len(one["metadata"]["name"]) for one in objects if one["kind"] == "Service") <= 63
    # A Deployment's pods add a hash of ten and a suffix of six.
    assert max(len(one["metadata"]["name"]) for one in objects if one["kind"] == "Deployment") <= 63


def test_two_releases_share_no_name_and_no_selector() -> None:
    first, second = render(release="one"), render(release="two")
    assert not {one["metadata"]["name"] for one in first} & {one["metadata"]["name"] for one in second}
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in second if one["kind"] == "Deployment"]
    for one in first:
        if one["kind"] in ("Service", "PodDisruptionBudget", "Deployment"):
            selector = one["spec"]["selector"].get("matchLabels", one["spec"]["selector"])
            assert not any(selector.items() <= labels.items() for labels in pods)


def test_the_embedded_redis_goes_when_another_is_given() -> None:
    assert "demo-baton-redis" in kinds(render(), "Deployment")
    for other in ({"url": "redis://elsewhere:6379/0"}, {"existingSecret": "redis"}):
        assert "demo-baton-redis" not in kinds(render({"redis": other}), "Deployment")


def test_a_disruption_budget_needs_a_second_pod() -> None:
    assert kinds(render(), "PodDisruptionBudget") == ["demo-baton-router"]
    several = render({"decode": {"replicas": 2}})
    assert kinds(several, "PodDisruptionBudget") == ["demo-baton-decode", "demo-baton-router"]
    scaled = {"enabled": True, "kind": "hpa", "minReplicas": 1}
    assert "demo-baton-decode" not in kinds(
        render({"decode": {"autoscaling": scaled}}), "PodDisruptionBudget"
    )


@pytest.mark.parametrize(("kind", "made"), [("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
@pytest.mark.parametrize("component", ["router", "prefill", "decode"])
def test_an_autoscaler_owns_the_replicas(component: str, kind: str, made: str) -> None:
    scale = {"enabled": True, "kind": kind, "keda": {"serverAddress": "http://prometheus"}}
    objects = render({component: {"autoscaling": scale}})
    assert "replicas" not in find(objects, "Deployment", f"demo-baton-{component}")["spec"]
    target = find(objects, made, f"demo-baton-{component}")["spec"]["scaleTargetRef"]
    assert target["name"] == f"demo-baton-{component}"


def test_devices_follow_from_tensor_parallel() -> None:
    values = {
        "device": "cuda",
        "decode": {"tensorParallel": 4},
        "transfer": {"rdma": {"enabled": True, "perGpu": 2, "resourceName": "rdma/ib"}},
    }
    objects = render(values)
    for component, ranks in (("prefill", 1), ("decode", 4)):
        pod = find(objects, "Deployment", f"demo-baton-{component}")["spec"]["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert (limits["nvidia.com/gpu"], limits["rdma/ib"]) == (ranks, 2 * ranks)
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def test_a_gpu_without_a_resource_s_name_tolerates_no_taint() -> None:
    """An empty key would be that of every taint: the control plane has one, and so has who keeps a node."""
    objects = render({"device": "cuda", "decode": {"gpu": {"resourceName": "", "visibleDevices": "0"}}})
    pod = find(objects, "Deployment", "demo-baton-decode")["spec"]["template"]["spec"]
    assert "tolerations" not in pod


def test_what_promises_nvlink_or_rdma_is_tested_for_it() -> None:
    both = {"device": "cuda", "transfer": {"nvlink": {"enabled": True}, "rdma": {"enabled": True}}}
    for values, promised in (
        ({"device": "cuda"}, ""),
        (SWITCHES["nvlink"], "nvlink"),
        (SWITCHES["rdma"], "rdma"),
        (both, "nvlink"),
    ):
        (container,) = find(render(values), "Pod", "demo-baton-test")["spec"]["containers"]
        args = smoke_parser().parse_args(container["args"])
        assert args.fast_path == promised and args.rounded, "16 bits"
    (container,) = find(render({}), "Pod", "demo-baton-test")["spec"]["containers"]
    args = smoke_parser().parse_args(container["args"])
    assert not args.fast_path and not args.rounded, "on a CPU every token counts"


def test_hand_overs_are_tested_where_there_is_a_prefill_pod_at_least() -> None:
    hpa = {"enabled": True, "kind": "hpa"}
    for prefill, expected in (
        ({"replicas": 0}, False),
        ({"replicas": 0, "autoscaling": hpa}, True),
        ({"replicas": 2, "autoscaling": {**hpa, "minReplicas": 0}}, False),
    ):
        (container,) = find(render({"prefill": prefill}), "Pod", "demo-baton-test")["spec"]["containers"]
        assert ("--no-handover" not in container["args"]) is expected


def test_nvlink_gives_a_pod_all_device_files_and_one_visible_gpu() -> None:
    values = {"device": "cuda", "transfer": {"nvlink": {"enabled": True}}}
    pod = find(render(values), "Deployment", "demo-baton-decode")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["securityContext"]["privileged"] is True and "hostPID" not in pod
    # The device plugin counts, its variable chooses.
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert 'CUDA_VISIBLE_DEVICES="$NVIDIA_VISIBLE_DEVICES"' in container["command"][2]

    fixed = values | {"prefill": {"gpu": {"visibleDevices": "0"}}, "decode": {"gpu": {"visibleDevices": "1"}}}
    container = find(render(fixed), "Deployment", "demo-baton-decode")["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert container["command"] == ["python3", "-m", "baton.decode"]
    assert {"name": "CUDA_VISIBLE_DEVICES", "value": "1"} in container["env"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


@pytest.mark.parametrize("case", CASES)
def test_helm_lints_it_strictly(case: str) -> None:
    assert lint(CASES[case]) == []


def test_what_yaml_would_read_otherwise_arrives_as_it_was_given() -> None:
    values = {
        "router": {"ingress": {"enabled": True, "hosts": ["*.example"]}},
        "redis": {"embedded": {"maxMemory": "268435456"}},
        "transfer": {"env": {"UCX_RNDV_THRESH": 1048576, "UCX_MEMTYPE_CACHE": True, "UCX_TLS": "tcp"}},
        "tracing": {"otlpEndpoint": "http://[fd00::1]:4318"},
        "model": {"names": ["8"]},
        "loadtest": {"enabled": True},
    }
    objects = render(values)
    (rule,) = find(objects, "Ingress", "demo-baton-router")["spec"]["rules"]
    assert rule["host"] == "*.example"
    pods = dict(pod_specs(objects))
    assert "268435456" in pods["Deployment/demo-baton-redis"]["containers"][0]["command"]
    for pod, given in (
        ("Deployment/demo-baton-decode", {"UCX_RNDV_THRESH": "1048576", "UCX_MEMTYPE_CACHE": "true"}),
        ("Deployment/demo-baton-decode", {"UCX_TLS": "tcp"}),
        ("Job/demo-baton-loadtest-1", {"BATON_LOAD_MODEL": "8"}),
    ):
        env = {one["name"]: one.get("value") for one in pods[pod]["containers"][0]["env"]}
        assert given.items() <= env.items()
    assert config(objects, "decode")["trace"]["endpoint"] == "http://[fd00::1]:4318"


def test_notes_can_be_typed_as_they_stand() -> None:
    text = notes({"router": {"apiKeys": {"existingSecret": "keys"}}})
    lines = re.findall(r"^  ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    forward, ask, test, scale = (words for line in lines if (words := shlex.split(line, comments=True)))
    assert " ".join(forward) == "kubectl -n default port-forward svc/demo-baton-router 8000:80 &"
    assert ask[0] == "curl" and json.loads(ask[-1])["model"] == "tiny"
    assert "authorization: Bearer $KEY" in ask
    assert " ".join(test) == "helm -n default test demo"
    assert " ".join(scale) == "kubectl -n default scale deployment/demo-baton-decode --replicas=3"


def test_the_chart_stays_small() -> None:
    templates = [path for path in (CHART / "templates").rglob("*") if path.is_file()]
    assert sum(len(path.read_text().splitlines()) for path in templates) < 900
    assert len((CHART / "values.yaml").read_text().splitlines()) < 350


def test_a_refusal_is_an_error() -> None:
    with pytest.raises(Refused):
        render({"redis": {"embedded": {"enabled": False}}})
