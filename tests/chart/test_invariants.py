"""What holds for every pod of every combination of values: who it is, what it may do, how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chart.charts import OPENED, config, every, find, kinds, pod_specs, render

CASES = every()
SELECTED = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_selectors_are_the_three_labels(case: str) -> None:
    for one in render(CASES[case]):
        labels = one["metadata"]["labels"] if one["metadata"].get("labels") else {}
        assert labels == {} or labels["app.kubernetes.io/part-of"] == "baton"
        if one["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert set(one["spec"]["selector"]["matchLabels"]) == SELECTED
        if one["kind"] == "Service":
            assert set(one["spec"]["selector"]) == SELECTED


def test_pods_are_restricted(case: str) -> None:
    for where, pod in pod_specs(render(CASES[case])):
        opened = case in OPENED and where.endswith(("prefill", "decode"))
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.get(name) for name in ("hostNetwork", "hostIPC"))
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert any(mount["mountPath"] in ("/tmp", "/data") for mount in container["volumeMounts"])
            if not opened:
                assert pod["securityContext"]["runAsNonRoot"] is True and "hostPID" not in pod
                assert security["allowPrivilegeEscalation"] is False
                assert security["capabilities"] == {"drop": ["ALL"]} and "privileged" not in security


def test_images_are_pinned_and_requests_set(case: str) -> None:
    for _, pod in pod_specs(render(CASES[case])):
        for container in pod["containers"]:
            name = container["image"].rpartition("/")[2]
            assert ("@sha256:" in name or ":" in name) and not name.endswith(":latest")
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


def test_no_token_reaches_a_pod_that_asks_kubernetes_nothing(case: str) -> None:
    watches = CASES[case].get("discovery") == "kubernetes"
    objects = render(CASES[case])
    for where, pod in pod_specs(objects):
        assert pod["automountServiceAccountToken"] is (watches and where.endswith("-router"))
        assert pod["enableServiceLinks"] is False
    assert len(kinds(objects, "Role")) == int(watches)
    assert not kinds(objects, "ClusterRole")


def test_a_pod_s_end_follows_from_its_drain(case: str) -> None:
    objects = render(CASES[case])
    for component in ("router", "prefill", "decode"):
        pod = find(objects, "Deployment", f"demo-baton-{component}")["spec"]["template"]["spec"]
        own = config(objects, component)
        drain = own["drain_s"] if component == "prefill" else own["limits"]["drain_s"]
        stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] == stop + drain + 10


def test_liveness_and_readiness_are_apart(case: str) -> None:
    objects = render(CASES[case])
    for component in ("router", "prefill", "decode"):
        deployment = find(objects, "Deployment", f"demo-baton-{component}")["spec"]
        container = deployment["template"]["spec"]["containers"][0]
        ports = {port["name"] for port in container["ports"]}
        probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
        assert {probe["httpGet"]["port"] for probe in probes.values()} <= ports
        assert probes["readiness"]["httpGet"]["path"] != probes["liveness"]["httpGet"]["path"]
        budget = probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"]
        assert deployment["progressDeadlineSeconds"] > budget


def _generation(values: dict[str, Any], component: str = "decode") -> str:
    objects = render(values)
    labels = find(objects, "Deployment", f"demo-baton-{component}")["spec"]["template"]["metadata"]["labels"]
    assert labels["baton.dev/kv-generation"] == config(objects, component)["pod"]["generation"]
    return str(labels["baton.dev/kv-generation"])


def test_a_generation_is_what_pages_hold() -> None:
    first = _generation({})
    assert first == _generation({}, "prefill")
    assert first == _generation({"decode": {"config": {"engine": {"max_running": 8}}, "replicas": 3}})
    others: list[dict[str, Any]] = [
        {"kv": {"pageSize": 32}},
        {"kv": {"dtype": "fp8"}},
        {"model": {"quantization": "fp8"}},
        {"model": {"id": "a/b"}},
        {"model": {"dtype": "float16"}},
        {"image": {"tag": "2"}},
    ]
    assert len({first, *map(_generation, others)}) == 7


def _restarts(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Whose pods differ between two sets of values."""
    old, new = render(before), render(after)
    return [
        component
        for component in ("decode", "prefill", "router")
        if find(old, "Deployment", f"demo-baton-{component}")["spec"]["template"]
        != find(new, "Deployment", f"demo-baton-{component}")["spec"]["template"]
    ]


def test_a_change_restarts_the_component_that_it_concerns() -> None:
    assert _restarts({}, {"decode": {"config": {"engine": {"max_running": 8}}}}) == ["decode"]
    assert _restarts({}, {"router": {"config": {"admission": {"max_queued": 1}}}}) == ["router"]
    assert _restarts({}, {"decode": {"replicas": 5}}) == []
    assert _restarts({}, {"commonLabels": {"a": "b"}}) == []
    assert _restarts({}, {"kv": {"pageSize": 32}}) == ["decode", "prefill"]
    digest = "sha256:" + "0" * 64
    assert _restarts({}, {"image": {"digests": {"router": digest}}}) == ["router"]
    assert _restarts({}, {"image": {"digests": {"loadtest": digest}}}) == []
    assert _restarts({}, {"image": {"digests": {"engine-cpu": digest}}}) == ["decode", "prefill"]


def test_workers_carry_the_labels_that_other_tools_select() -> None:
    for component in ("prefill", "decode"):
        template = find(render(), "Deployment", f"demo-baton-{component}")["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert (labels["llm-d.ai/role"], labels["llm-d.ai/inference-serving"]) == (component, "true")


def test_gpu_workers_roll_without_a_spare_gpu() -> None:
    for device, surge in (("cpu", 1), ("cuda", 0)):
        strategy = find(render({"device": device}), "Deployment", "demo-baton-decode")["spec"]["strategy"]
        assert strategy["rollingUpdate"] == {"maxSurge": surge, "maxUnavailable": 1 - surge}


def test_a_rollout_is_given_the_time_of_a_drain_and_a_start() -> None:
    """Without a spare GPU a new pod starts when an old one has ended, which is no lack of progress."""
    values = {"device": "cuda", "router": {"drainSeconds": 3600}, "decode": {"drainSeconds": 3600}}
    deployment = find(render(values), "Deployment", "demo-baton-decode")["spec"]
    grace = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > 3600 and deployment["progressDeadlineSeconds"] > grace + 1800


def _seen(pod: dict[str, Any]) -> tuple[str, set[str], set[str]]:
    """Of a pod's one container: HF_HOME, the names in its environment, and where volumes are."""
    (container,) = pod["containers"]
    environ = {one["name"]: one.get("value", "") for one in container.get("env", [])}
    return environ.get("HF_HOME", ""), set(environ), {one["mountPath"] for one in container["volumeMounts"]}


def test_what_comes_from_the_hub_is_kept_on_a_volume(case: str) -> None:
    for _, pod in pod_specs(render(CASES[case])):
        home, _, mounts = _seen(pod)
        assert not home or any(f"{home}/".startswith(f"{mount}/") for mount in mounts)


def test_a_hub_that_is_not_asked_is_read_from_the_volume() -> None:
    """By routers and tests too: they need the tokenizer."""
    hub = {"model": {"id": "a/b"}, "modelCache": {"type": "pvc"}, "huggingface": {"existingSecret": "hf"}}
    kept = hub | {"huggingface": {"existingSecret": "hf", "offline": True}}
    named = ("demo-baton-router", "demo-baton-prefill", "demo-baton-decode", "demo-baton-test")
    for values, homes in (
        (hub, ["/tmp/huggingface", "/models", "/models", "/tmp/huggingface"]),
        (kept, ["/models"] * 4),
    ):
        pods = {where.partition("/")[2]: pod for where, pod in pod_specs(render(values))}
        for name, expected in zip(named, homes, strict=True):
            home, environ, mounts = _seen(pods[name])
            assert (home, "HF_TOKEN" in environ) == (expected, True), name
            assert ("/models" in mounts) is (expected == "/models"), name
