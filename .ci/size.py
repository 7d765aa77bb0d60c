"""Lines per package, what changed since a base commit, and the limits that keep files readable.

`make size` runs it; so does `make check`. Fails on a module over 500 lines or a function over 60,
unless it stands in LONGER with its reason, and on an entry of LONGER that is no longer needed.
Usage: python .ci/size.py [ROOT]
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 500
FUNCTION_LINES = 60
SUFFIXES = {".py", ".cu", ".cuh", ".cpp", ".h"}
ROOTS = ("services", "shared", "tests", "loadtest", ".ci")

LONGER: dict[str, str] = {}
"""`path` or `path:function` → why it may be longer than the limit."""


def modules(root: Path) -> Iterator[Path]:
    for top in ROOTS:
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path.relative_to(root)


def package(path: Path) -> str:
    """services/baton/router/app.py → baton.router; tests/core/test_ids.py → tests/core."""
    parts = path.parts[:-1]
    if parts[:2] in (("services", "baton"), ("shared", "baton")):
        return ".".join(("baton", *parts[2:3]))
    return "/".join(parts[:2])


def too_long(root: Path, path: Path) -> Iterator[tuple[str, int, int]]:
    """(what, its lines, the limit) of the module and each of its functions that is over it."""
    text = (root / path).read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > MODULE_LINES:
        yield str(path), lines, MODULE_LINES
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{path}:{node.name}", length, FUNCTION_LINES


def changes(root: Path) -> Counter[str]:
    """Lines added less lines removed since SIZE_BASE, or since this branch left main; empty when unknown."""
    asked = [os.environ["SIZE_BASE"]] if os.environ.get("SIZE_BASE") else ["origin/main", "main"]
    for name in asked:
        base = _git(root, "merge-base", name, "HEAD").strip()
        if base:
            break
    else:
        return Counter()
    change: Counter[str] = Counter()
    for line in _git(root, "diff", "--numstat", "--no-renames", base, "--", *ROOTS).splitlines():
        added, removed, path = line.split("\t")
        if Path(path).suffix in SUFFIXES:
            change[package(Path(path))] += int(added) - int(removed)
    return change


def _git(root: Path, *words: str) -> str:
    """What git says; nothing where there is no git, no repository or no such commit."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def report(root: Path) -> tuple[str, list[str]]:
    """(the table, what is wrong)."""
    files, lines = Counter[str](), Counter[str]()
    wrong: list[str] = []
    excused = set()
    for path in modules(root):
        files[package(path)] += 1
        lines[package(path)] += len((root / path).read_text(encoding="utf-8").splitlines())
        for what, length, limit in too_long(root, path):
            excused.add(what)
            if what not in LONGER:
                wrong.append(f"{what}: {length} lines, at most {limit}; split it, or say why in .ci/size.py")
    wrong += [f"{what}: need not stand in LONGER of .ci/size.py" for what in LONGER if what not in excused]
    change = changes(root)
    table = [f"{'package':<24}{'files':>7}{'lines':>8}{'change':>8}"]
    table += [_row(name, files[name], lines[name], change[name]) for name in sorted(files)]
    table.append(_row("all", files.total(), lines.total(), change.total()))
    return "\n".join(table), wrong


def _row(name: str, files: int, lines: int, change: int) -> str:
    return f"{name:<24}{files:>7}{lines:>8}" + (f"{change:>+8}" if change else "")


if __name__ == "__main__":
    table, wrong = report(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    sys.stdout.write(table + "\n")
    sys.stderr.writelines(f"size: {line}\n" for line in wrong)
    sys.exit(1 if wrong else 0)
