"""Settings, loaded once: defaults, then a file, then the environment, then the command line.

A service's `__main__` calls `from_command_line`; tests and tools call `load`. Whatever is wrong
becomes an InvalidSetting that names the setting, what would be right and where the value came from.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar, get_type_hints

from baton.core.errors import InvalidSetting
from baton.core.settings.casts import CastError, from_text, from_value
from baton.core.settings.listing import explanation, help_text
from baton.core.settings.schema import REQUIRED, Leaf, leaves, section_of
from baton.core.settings.sources import Given, from_arguments, from_environment, from_file

S = TypeVar("S")

PREFIX = "BATON"
DEFAULT = "default"
"""The origin of a value that nobody set."""


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A settings tree, and where each of its values came from."""

    settings: S
    origins: Mapping[str, str]
    """Dotted path of every leaf → where its value came from."""
    prefix: str = PREFIX

    def explain(self) -> str:
        """A listing of every setting: value, origin, doc, type, unit, default, variable and flag."""
        known = list(leaves(type(self.settings)))
        values = {leaf.path: _read(self.settings, leaf.path) for leaf in known}
        return explanation(known, values, self.origins, self.prefix)


def load(
    schema: type[S],
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    prefix: str = PREFIX,
) -> Loaded[S]:
    """Raises InvalidSetting. The process's own environment is read only when it is passed."""
    known = list(leaves(schema))
    given: dict[str, Given] = {}
    if file is not None:
        given |= from_file(schema, file)
    given |= from_environment(known, environ or {}, prefix)
    given |= from_arguments(known, arguments)
    values = {leaf.path: _value(leaf, given.get(leaf.path), prefix) for leaf in known}
    origins = {path: given[path].origin if path in given else DEFAULT for path in values}
    return Loaded(_build(schema, values, origins, ""), origins, prefix)


def from_command_line(
    schema: type[S],
    program: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    prefix: str = PREFIX,
    out: TextIO | None = None,
) -> Loaded[S]:
    """`load` for a service: also knows `--config FILE`, `--help` and `--explain`; the latter two write to
    `out` (standard output unless given) and raise SystemExit(0)."""
    out = out or sys.stdout
    rest = list(arguments)
    if "--help" in rest or "-h" in rest:
        out.write(help_text(leaves(schema), program, prefix))
        raise SystemExit(0)
    explain = "--explain" in rest
    rest = [word for word in rest if word != "--explain"]
    file = _take_config(rest) or environ.get(f"{prefix}_CONFIG")
    loaded = load(schema, file=Path(file) if file else None, environ=environ, arguments=rest, prefix=prefix)
    if explain:
        out.write(loaded.explain())
        raise SystemExit(0)
    return loaded


def _take_config(rest: list[str]) -> str | None:
    """Remove `--config FILE` or `--config=FILE` from the words, wherever it stands."""
    for place, word in enumerate(rest):
        flag, equals, value = word.partition("=")
        if flag != "--config":
            continue
        if not equals and place + 1 == len(rest):
            raise InvalidSetting("--config", "needs a value: --config FILE")
        value = value if equals else rest.pop(place + 1)
        rest.pop(place)
        return value
    return None


def _value(leaf: Leaf, given: Given | None, prefix: str) -> object:
    if given is None:
        if leaf.default is REQUIRED:
            raise InvalidSetting(
                leaf.path, f"is required; set {leaf.variable(prefix)}, {leaf.flag} or the file's"
            )
        return leaf.default
    try:
        return (from_text if given.text else from_value)(leaf.hint, given.value)
    except CastError as error:
        shown = "" if leaf.secret else f", not {given.value!r}"
        message = error.rule if error.whole else f"must be {error.rule}{shown}"
        raise InvalidSetting(leaf.path, f"{message} ({given.origin})") from error


def _build(schema: type[S], values: Mapping[str, object], origins: Mapping[str, str], above: str) -> S:
    hints = get_type_hints(schema)
    parts: dict[str, Any] = {}
    for one in fields(schema):  # type: ignore[arg-type]  # S is a dataclass: `leaves` has checked
        if one.init:
            path = f"{above}{one.name}"
            section = section_of(hints[one.name])
            parts[one.name] = _build(section, values, origins, f"{path}.") if section else values[path]
    try:
        return schema(**parts)
    except InvalidSetting as error:
        raise _placed(error, origins, above) from error
    except ValueError as error:
        raise InvalidSetting(above.rstrip(".") or schema.__name__, str(error)) from error


def _placed(error: InvalidSetting, origins: Mapping[str, str], above: str) -> InvalidSetting:
    """A section knows its fields' names but neither its own place nor where the values came from."""
    path = f"{above}{error.setting}"
    message = str(error).removeprefix(f"{error.setting}: ")
    return InvalidSetting(path, f"{message} ({origins[path]})" if path in origins else message)


def _read(settings: Any, path: str) -> object:
    for name in path.split("."):
        settings = getattr(settings, name)
    return settings
