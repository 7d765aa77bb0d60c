"""Every metric that a process exports is explained in the docs, and every one explained there exists."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from tests.running import Running

ROOT = Path(__file__).parents[2]
EXPLAINED = set(re.findall(r"^\| `(baton_\w+)`", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE))
FAMILY = re.compile(r"^# TYPE ((?:baton_|vllm:)\S+) ", re.MULTILINE)


def exported(url: str) -> set[str]:
    text = httpx.get(f"{url}/metrics", timeout=10).text
    return {name for name in FAMILY.findall(text) if name.startswith("baton_")}


def test_what_processes_export_is_what_the_docs_explain(running: Running) -> None:
    pods = httpx.get(f"{running.url}/debug/fleet", timeout=10).json()["workers"]
    assert {pod["role"] for pod in pods} == {"prefill", "decode"}
    found = set[str]().union(exported(running.url), *(exported(pod["http"]) for pod in pods))
    assert found - EXPLAINED == set(), "not explained in docs/operating.md"
    assert EXPLAINED - found == set(), "explained, and exported by nobody"
