"""Writes manifests/ from the chart: one folder a profile, rendered, without a trace of Helm.

`make manifests` runs it; with --check it writes nothing and fails where a file differs. What to edit is
manifests/*/values.yaml or the chart.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.chart.charts import PROFILES, Manifest, profile, render  # noqa: E402

RELEASE = "baton"
NAMESPACE = "baton"
HELM_ONLY = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def text(name: str) -> str:
    """all.yaml of a profile."""
    objects = render(profile(name), release=RELEASE, namespace=NAMESPACE)
    kept = sorted((one for one in objects if not _is_hook(one)), key=lambda one: (one["kind"], _name(one)))
    for one in kept:
        for label in HELM_ONLY:
            one["metadata"].get("labels", {}).pop(label, None)
    head = f"# Generated from helm/baton and manifests/{name}/values.yaml by `make manifests`: not to edit.\n"
    return head + "---\n".join(yaml.safe_dump(one, sort_keys=True, width=110) for one in kept)


def kustomization(name: str) -> str:
    images = sorted({image for one in render(profile(name)) for image in _images(one)})
    lines = [
        f"# kubectl create namespace {NAMESPACE} && kubectl apply -k manifests/{name}",
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
        f"namespace: {NAMESPACE}",
        "resources: [all.yaml]",
        "# Where your images are: uncomment, and set newName to your registry's.",
        "# images:",
    ]
    own = [image.rpartition(":")[0] for image in images if image.startswith("baton")]
    lines += [f"#   - {{name: {name}, newName: registry.example/{name}}}" for name in own]
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    made: dict[Path, str] = {}
    for name in PROFILES:
        folder = ROOT / "manifests" / name
        made[folder / "all.yaml"] = text(name)
        made[folder / "kustomization.yaml"] = kustomization(name)
    return made


def _is_hook(one: Manifest) -> bool:
    return "helm.sh/hook" in one["metadata"].get("annotations", {})


def _name(one: Manifest) -> str:
    return str(one["metadata"]["name"])


def _images(one: Manifest) -> list[str]:
    spec = one.get("spec", {}).get("template", {}).get("spec", {})
    return [container["image"] for container in spec.get("containers", [])]


def main() -> int:
    stale = [path for path, wanted in files().items() if not path.exists() or path.read_text() != wanted]
    for path in stale:
        sys.stderr.write(f"manifests: {path.relative_to(ROOT)} differs\n")
        if "--check" not in sys.argv:
            path.write_text(files()[path])
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
