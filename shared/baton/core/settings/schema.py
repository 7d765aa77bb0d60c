"""What a settings class has to say about itself: its leaves, their types, defaults, units and docs.

A settings class is a frozen dataclass. A field is either a section (another settings class) or a
leaf; the string beneath a field documents it. Everything here is read-only and knows no source.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")

SECRET: Mapping[str, bool] = MappingProxyType({"secret": True})

RESERVED = frozenset({"config", "explain", "help"})
"""Flags of every service, so no top-level setting may be called so."""

UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_us": "microseconds",
    "_bytes": "bytes",
    "_mib": "MiB",
    "_gib": "GiB",
    "_gbps": "GB/s",
    "_tokens": "tokens",
    "_pages": "pages",
    "_share": "0 to 1",
}
"""The unit that the end of a field's name stands for."""


class Required:
    """Stands for the default of a field that has none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = Required()


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting."""

    path: str
    """Dotted: `cache.page_size`."""
    hint: Any
    """Its type, resolved."""
    default: object
    """REQUIRED when the class gives none."""
    doc: str
    secret: bool

    @property
    def unit(self) -> str:
        return next((unit for end, unit in UNITS.items() if self.path.endswith(end)), "")

    @property
    def flag(self) -> str:
        return f"--{self.path}"

    def variable(self, prefix: str) -> str:
        return f"{prefix}_{self.path.replace('.', '__').upper()}"


def secret(default: T) -> T:
    """A field whose value is never shown: not in listings, errors or the settings' repr."""
    made: T = field(default=default, repr=False, metadata=SECRET)
    return made


def section_of(hint: Any) -> type | None:
    """The settings class that a field's type names, or None when the field is a leaf."""
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def leaves(schema: type, default: object = None, above: str = "") -> Iterator[Leaf]:
    """Every leaf in the order of the classes. `default` is an instance whose values go before the class's."""
    assert is_dataclass(schema), f"{schema!r} is no dataclass"
    hints = get_type_hints(schema)
    docs = field_docs(schema)
    for one in fields(schema):
        if not one.init:
            continue
        path = f"{above}{one.name}"
        value = _default(one) if default is None else getattr(default, one.name)
        section = section_of(hints[one.name])
        if section is not None:
            yield from leaves(section, None if value is REQUIRED else value, f"{path}.")
            continue
        _check(schema, one.name, hints[one.name], top=not above)
        yield Leaf(path, hints[one.name], value, docs.get(one.name, ""), bool(one.metadata.get("secret")))


def field_docs(schema: type) -> dict[str, str]:
    """The string beneath each field, from the source; empty where there is no source to read."""
    found: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if not is_dataclass(owner):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError):
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for line, below in itertools.pairwise(body):
            match line, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = inspect.cleandoc(text)
    return found


def _default(one: Any) -> object:
    if one.default is not MISSING:
        return one.default
    if one.default_factory is not MISSING:
        return one.default_factory()
    return REQUIRED


def _check(schema: type, name: str, hint: Any, *, top: bool) -> None:
    """The mistakes of whoever wrote the class, not of whoever sets its values."""
    where = f"{schema.__name__}.{name}"
    assert "__" not in name and name == name.lower(), f"{where}: no variable could spell this name"
    assert not (top and name in RESERVED), f"{where}: every service has a flag of this name"
    assert not any(section_of(part) for part in get_args(hint) if type(None) in get_args(hint)), (
        f"{where}: a section is always there; give it a field that turns it off"
    )
