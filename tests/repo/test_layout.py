"""The traps of two roots under one namespace, and what each package owes: all silent when broken."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = [ROOT / "services" / "baton", ROOT / "shared" / "baton"]
PACKAGES = sorted(path.parent for root in ROOTS for path in root.glob("*/__init__.py"))
INITS = sorted(path for root in ROOTS for path in root.rglob("__init__.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("root", ROOTS, ids=_name)
def test_a_namespace_root_holds_packages_and_nothing_else(root: Path) -> None:
    strays = [path.name for path in root.iterdir() if not path.is_dir()]
    assert strays == [], "a file here, above all __init__.py, hides the other root"


@pytest.mark.parametrize("package", PACKAGES, ids=_name)
def test_each_package_brings_its_types(package: Path) -> None:
    assert (package / "py.typed").is_file()


def test_each_folder_of_code_is_a_package() -> None:
    folders = {path.parent for root in ROOTS for path in root.rglob("*.py")}
    assert [_name(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_an_installation_holds_both_roots() -> None:
    try:
        metadata.version("baton")
    except metadata.PackageNotFoundError:
        pytest.skip("baton is on the path but not installed here")
    script = "import baton, baton.cli.commands, baton.core.types; assert baton.__file__ is None"
    # -I: neither PYTHONPATH nor the working directory, only what the installation put there.
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                names: list[str] = ast.literal_eval(value)
                return names
    return None


def _bound(tree: ast.Module) -> set[str]:
    """Names that importing the module binds, as far as the source tells."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def _rank(name: str) -> tuple[int, str]:
    """The order that ruff keeps: constants, then classes, then the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("init", INITS, ids=_name)
def test_what_a_package_exports_is_there_and_sorted(init: Path) -> None:
    tree = ast.parse(init.read_text(encoding="utf-8"))
    exported = _exported(tree)
    if exported is None:
        assert _bound(tree) <= {"annotations"}, "names, but no __all__"
        return
    assert exported == sorted(set(exported), key=_rank)
    # A module-level __getattr__ may give the rest lazily.
    if "__getattr__" not in _bound(tree):
        assert set(exported) <= _bound(tree)


def test_the_changelog_s_newest_release_is_this_one() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    newest = re.search(
        r"^## \[(\d.*?)\] - (\d{4}-\d\d-\d\d|Unreleased)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert declared and newest
    assert declared[1] == newest[1]
