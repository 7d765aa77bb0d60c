"""Who may import whom, where import-linter cannot see: `__init__` of packages on the way, and the whole
standard library. The layers themselves are contracts in pyproject.toml (`make layers`)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "shared" / "baton"

TORCH_FREE = [
    "core",
    "http",
    "membership",
    "openai",
    "protocol",
    "service",
    "state",
    "telemetry",
    "tokens",
    "router",
    "cli",
]
"""Packages whose every module must import without torch, engine libraries and NIXL."""
TORCH_FREE_MODULES = ["baton.cache.base", "baton.cache.radix", "baton.cache.naive", "baton.testing.clock"]
HEAVY = ["cuda", "flashinfer", "nixl", "torch", "transformers", "triton"]


def _modules(package: str) -> list[str]:
    for root in (ROOT / "services", ROOT / "shared"):
        files = sorted((root / "baton" / package).rglob("*.py"))
        if files:
            return [
                ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
                for path in files
                if path.name != "__main__.py"
            ]
    return []


def _exists(module: str) -> bool:
    path = ROOT / "shared" / Path(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_torch_free_code_loads_no_torch() -> None:
    modules = [name for package in TORCH_FREE for name in _modules(package)]
    modules += [name for name in TORCH_FREE_MODULES if _exists(name)]
    script = f"""
import sys, importlib
for name in {modules}:
    importlib.import_module(name)
    heavy = [library for library in {HEAVY} if library in sys.modules]
    if heavy:
        sys.exit(f"importing {{name}} loads {{heavy}}")
"""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'shared'}"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((SHARED / "core").rglob("*.py")), ids=lambda path: path.name)
def test_core_stands_on_the_standard_library_alone(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"baton"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=aliases):
                tops = {alias.name.partition(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                tops = {module.partition(".")[0]}
            case _:
                continue
        assert tops <= allowed
