"""Settings in words: what `--help` and `--explain` show. Pure; secrets are never spelled out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from enum import Enum

from baton.core.settings.casts import describe
from baton.core.settings.schema import REQUIRED, Leaf

WIDTH = 100


def help_text(leaves: Iterable[Leaf], program: str, prefix: str) -> str:
    """Every setting with its type, unit, default and doc."""
    lines = [
        f"usage: {program} [--config FILE] [--explain] [--SETTING VALUE ...]",
        "",
        f"A flag goes before the environment ({prefix}_SECTION__FIELD), which goes before the file.",
        "",
        "  --config FILE",
        f"      TOML or JSON file of settings; also {prefix}_CONFIG.",
        "  --explain",
        "      Show every setting, its value and where the value came from, and exit.",
        "  --help",
        "      Show this and exit.",
    ]
    for leaf in leaves:
        lines += ["", f"  {leaf.flag} ({kind_of(leaf)}; {_default(leaf)})", *_doc(leaf, indent="      ")]
    return "\n".join(lines) + "\n"


def explanation(
    leaves: Iterable[Leaf], values: Mapping[str, object], origins: Mapping[str, str], prefix: str
) -> str:
    """Every setting with its value and where that came from."""
    lines: list[str] = []
    for leaf in leaves:
        lines += [
            f"{leaf.path} = {spell(leaf, values[leaf.path])}    [{origins[leaf.path]}]",
            *_doc(leaf, indent="    "),
            f"    {kind_of(leaf)}; {_default(leaf)}; {leaf.variable(prefix)}, {leaf.flag}",
            "",
        ]
    return "\n".join(lines)


def spell(leaf: Leaf, value: object) -> str:
    """A value as a flag would take it."""
    return "(secret)" if leaf.secret and value else _spell(value)


def _spell(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case tuple():
            return ",".join(_spell(item) for item in value) or '""'
        case dict():
            return ",".join(f"{key}={_spell(item)}" for key, item in value.items()) or '""'
        case "":
            return '""'
    return str(value)


def kind_of(leaf: Leaf) -> str:
    """Its type and unit."""
    return f"{describe(leaf.hint)}, {leaf.unit}" if leaf.unit else describe(leaf.hint)


def spell_default(leaf: Leaf) -> str:
    return "required" if leaf.default is REQUIRED else spell(leaf, leaf.default)


def _default(leaf: Leaf) -> str:
    return "required" if leaf.default is REQUIRED else f"default {spell_default(leaf)}"


def _doc(leaf: Leaf, indent: str) -> list[str]:
    text = " ".join(leaf.doc.split())
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
