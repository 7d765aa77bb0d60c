"""kubectl and helm for tests: one namespace, one release, and the load on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).parents[2]
CHART = str(ROOT / "helm" / "baton")
STEADY = Path(__file__).parent / "steady.py"
PRODUCT = "app.kubernetes.io/part-of=baton"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Images:
    """What is installed, by name; the node has them or can pull them."""

    router: str = os.environ.get("BATON_ROUTER_IMAGE", "baton-router:0.1.0")
    engine: str = os.environ.get("BATON_ENGINE_IMAGE", "baton-engine-cpu:0.1.0")
    redis: str = os.environ.get("BATON_REDIS_IMAGE", "docker.io/library/redis:7.2.5-bookworm")
    loadtest: str = os.environ.get("BATON_LOADTEST_IMAGE", "")

    def values(self) -> dict[str, Any]:
        return {
            "router": {"image": self.router},
            "prefill": {"image": self.engine},
            "decode": {"image": self.engine},
            "redis": {"embedded": {"image": self.redis}},
            "loadtest": {"image": self.loadtest},
        }


def run(*words: str, stdin: str | None = None, check: bool = True, timeout: float = 300) -> str:
    program = shutil.which(words[0])
    if program is None:
        pytest.skip(f"no {words[0]} here")
    done = subprocess.run(
        [program, *words[1:]], input=stdin, capture_output=True, text=True, check=False, timeout=timeout
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr[-3000:]}{done.stdout[-3000:]}")
    return done.stdout


def until(what: str, probe: Callable[[], T], seconds: float = 60.0) -> T:
    """What the probe says once it says anything; a failure that names what was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.3)
    return found


@dataclass(slots=True)
class Release:
    """One `helm install` of the chart."""

    space: str
    name: str
    images: Images = field(default_factory=Images)
    values: dict[str, Any] = field(default_factory=dict)

    # ---- helm

    def install(self, **values: Any) -> None:
        """Install or upgrade with these values over those before; returns when everything is ready."""
        _merge(self.values, self.images.values())
        _merge(self.values, values)
        command = ["helm", "upgrade", "--install", self.name, CHART, "--namespace", self.space]
        run(
            *command, "--reset-values", "--values", "-", "--wait", "--timeout", "4m",
            stdin=json.dumps(self.values),
        )  # fmt: skip

    def test(self) -> None:
        """A completion, a hand-over by each decode pod, and equal answers: `baton smoke` fails otherwise."""
        try:
            told = run("helm", "test", self.name, "--namespace", self.space, "--timeout", "3m")
        except AssertionError as error:
            said = self.kubectl("logs", self.called("test"), check=False)
            raise AssertionError(f"{said}\n{error}") from error
        assert "Succeeded" in told

    def uninstall(self) -> None:
        run("helm", "uninstall", self.name, "--namespace", self.space, "--wait", "--timeout", "4m")

    # ---- kubectl

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True, timeout: float = 300) -> str:
        return run("kubectl", "--namespace", self.space, *words, stdin=stdin, check=check, timeout=timeout)

    def called(self, component: str) -> str:
        whole = self.name if "baton" in self.name else f"{self.name}-baton"
        return f"{whole}-{component}"

    def pods(self, component: str, *, ready: bool = True) -> list[dict[str, Any]]:
        """Those that are there and are not leaving; the oldest first."""
        selector = f"{PRODUCT},app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))[
            "items"
        ]
        kept = [
            pod for pod in found if "deletionTimestamp" not in pod["metadata"] and (not ready or _ready(pod))
        ]
        return sorted(kept, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def scale(self, component: str, replicas: int) -> None:
        self.kubectl("scale", f"deployment/{self.called(component)}", f"--replicas={replicas}")
        until(
            f"{replicas} {component} pods",
            lambda: len(self.pods(component)) == len(self.pods(component, ready=False)) == replicas,
            150,
        )

    def gone(self, component: str, replicas: int) -> None:
        """Until pods that were leaving have left."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"

        def counted() -> bool:
            return len(self.kubectl("get", "pods", "-l", selector, "-o", "name").split()) == replicas

        until(f"{component} pods have left", counted, 150)

    def roll(self, component: str) -> None:
        self.kubectl("rollout", "restart", f"deployment/{self.called(component)}")
        self.kubectl("rollout", "status", f"deployment/{self.called(component)}", "--timeout=180s")

    def logs(self, pod: str) -> list[dict[str, Any]]:
        """A pod's lines that are JSON."""
        lines = self.kubectl("logs", pod).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    # ---- asking

    def fetch(self, path: str, component: str = "router", port: int = 8000) -> str:
        """GET from inside one of the component's pods, of itself."""
        pod = self.pods(component)[-1]["metadata"]["name"]
        url = f"http://127.0.0.1:{port}{path}"
        code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=10).read().decode())"
        return self.kubectl("exec", pod, "--", "python3", "-c", code)

    def pod(
        self, name: str, command: Sequence[str], labels: dict[str, str] | None = None, **more: Any
    ) -> None:
        """Start a pod of the router's image that is nobody's."""
        security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {"name": "main", "image": self.images.router, "command": list(command)}
        spec = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container | {"securityContext": security} | more.pop("container", {})],
            **more,
        }  # fmt: skip
        metadata = {"name": name, "labels": {"app": "test", **(labels or {})}}
        self.kubectl(
            "apply", "-f", "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}),
        )  # fmt: skip

    @contextmanager
    def load(self, users: int = 6) -> Iterator[list[dict[str, Any]]]:
        """Steady load while the block runs; its lines are in the list after it."""
        name = f"steady-{self.name}"
        self.kubectl("delete", "pod,configmap", name, "--ignore-not-found", "--wait=true")
        self.kubectl("create", "configmap", name, f"--from-file=steady.py={STEADY}")
        url = f"http://{self.called('router')}"
        self.pod(
            name, ["python3", "/steady/steady.py", "--url", url, "--users", str(users)],
            container={"volumeMounts": [{"name": "steady", "mountPath": "/steady"}]},
            volumes=[{"name": "steady", "configMap": {"name": name}}],
        )  # fmt: skip
        lines: list[dict[str, Any]] = []
        until("the load has begun", lambda: '"begun"' in self.kubectl("logs", name, check=False), 60)
        try:
            yield lines
        finally:
            self.kubectl("exec", name, "--", "touch", "/tmp/stop", check=False)
            until("the load has ended", lambda: '"end"' in self.kubectl("logs", name, check=False), 120)
            lines += self.logs(name)
            self.kubectl("delete", "pod,configmap", name)


def judged(lines: list[dict[str, Any]], *, least: int) -> dict[str, Any]:
    """The load's sum, if nothing failed and nothing was wrong."""
    end = lines[-1]
    whole(lines)
    bad = [line for line in lines if line["event"] == "wrong"]
    assert not bad, f"{end}: {bad[:5]}"
    assert end["done"] >= least, end
    return end


def whole(lines: list[dict[str, Any]]) -> None:
    """Every request had its answer."""
    failed = [
        f"{line['at']}, user {line['user']}: {line['reason']}" for line in lines if line["event"] == "failed"
    ]
    assert not failed, "\n".join(failed[:5])


def _ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = json.loads(json.dumps(value))
