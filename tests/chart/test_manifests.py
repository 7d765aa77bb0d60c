"""manifests/ is what the chart renders now, and kustomize takes it."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.chart.charts import PROFILES, ROOT


def test_manifests_are_what_the_chart_renders() -> None:
    made: dict[Path, str] = runpy.run_path(str(ROOT / ".ci" / "manifests.py"))["files"]()
    stale = [str(path.relative_to(ROOT)) for path, text in made.items() if path.read_text() != text]
    assert stale == [], "run `make manifests`"


@pytest.mark.parametrize("name", PROFILES)
def test_nothing_of_helm_is_left(name: str) -> None:
    text = (ROOT / "manifests" / name / "all.yaml").read_text()
    assert "helm.sh/" not in text and "managed-by" not in text and "hook" not in text


@pytest.mark.parametrize("name", PROFILES)
def test_kustomize_builds(name: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here")
    command = [kubectl, "kustomize", str(ROOT / "manifests" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "namespace: baton" in done.stdout
