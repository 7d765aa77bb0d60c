"""Every settings class of the project: frozen, and each field documented beneath itself."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for root in (ROOT / "services", ROOT / "shared"):
        for path in sorted(root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
                    yield f"{path.relative_to(ROOT)}:{node.name}", node


CLASSES = dict(_classes())


@pytest.mark.parametrize("name", CLASSES)
def test_a_settings_class_is_a_frozen_dataclass(name: str) -> None:
    decorators = [ast.unparse(one) for one in CLASSES[name].decorator_list]
    assert any(one.startswith("dataclass(") and "frozen=True" in one for one in decorators)


@pytest.mark.parametrize("name", CLASSES)
def test_each_of_its_fields_says_what_it_is(name: str) -> None:
    body = [*CLASSES[name].body, ast.Pass()]
    for field, below in itertools.pairwise(body):
        match field, below:
            case ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.AnnAssign(), _ if not _is_section(field):
                pytest.fail(f"{ast.unparse(field.target)} has no string beneath it")


def _is_section(field: ast.AnnAssign) -> bool:
    """A field that holds other settings says enough by its name and class."""
    return isinstance(field.annotation, ast.Name) and field.annotation.id.endswith("Settings")
