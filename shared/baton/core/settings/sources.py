"""The three places where settings come from: a file, the environment, the command line.

Each yields `path → Given`, and refuses every name that no setting has. TOML is for people and JSON
for charts, which turn a values file into JSON without a template; both are read by the standard
library. YAML is not: it would be one more package in every image for the sake of a third spelling.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from baton.core.errors import InvalidSetting
from baton.core.settings.casts import WORDS
from baton.core.settings.schema import Leaf, section_of
from baton.core.suggest import hint as suggestion

SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
"""What Kubernetes puts into every pod for each Service: BATON_ROUTER_PORT=tcp://10.1.2.3:80 and its like."""

OF_COMMANDS = frozenset({"CONFIG", "API_KEY", "KEY_FILE"})
"""Variables with the prefix that are no settings: which file, and whose key commands show a router. A shell
that has them starts services as well."""


@dataclass(frozen=True, slots=True)
class Given:
    """One value as a source has it, not cast yet."""

    value: Any
    origin: str
    """For people: `file baton.toml`, `BATON_CACHE__PAGE_SIZE`, `--cache.page_size`."""
    text: bool
    """From a shell, so to be read as text; False when the file's own types are to be trusted."""


def from_file(schema: type, path: Path) -> dict[str, Given]:
    given: dict[str, Given] = {}
    _flatten(schema, _read(path), "", f"file {path}", given)
    return given


def from_environment(leaves: Iterable[Leaf], environ: Mapping[str, str], prefix: str) -> dict[str, Given]:
    """Variables with the prefix, but for those of commands."""
    known = {leaf.variable(prefix): leaf.path for leaf in leaves}
    given: dict[str, Given] = {}
    for name, text in environ.items():
        if (
            not name.startswith(f"{prefix}_")
            or name.removeprefix(f"{prefix}_") in OF_COMMANDS
            or _is_service_link(name, text, known)
        ):
            continue
        if name not in known:
            raise InvalidSetting(name, f"there is no such setting{suggestion(name, known)}")
        given[known[name]] = Given(text, name, text=True)
    return given


def from_arguments(leaves: Iterable[Leaf], arguments: Sequence[str]) -> dict[str, Given]:
    """`--section.field value` or `--section.field=value`; a true-or-false one may stand alone for true."""
    known = {leaf.path: leaf for leaf in leaves}
    given: dict[str, Given] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        path = flag[2:].replace("-", "_")
        if not flag.startswith("--") or path not in known:
            raise InvalidSetting(
                flag, f"there is no such flag{suggestion(flag, [f'--{name}' for name in known])}"
            )
        if path in given:
            raise InvalidSetting(flag, "is given twice")
        if not equals:
            value = _next_value(flag, known[path], rest)
        given[path] = Given(value, known[path].flag, text=True)
    return given


def _next_value(flag: str, leaf: Leaf, rest: list[str]) -> str:
    """Take the flag's value from the words after it."""
    if leaf.hint is bool and (not rest or rest[0].lower() not in WORDS):
        return "true"
    if not rest or rest[0].startswith("--"):
        if bool in get_args(leaf.hint):
            return "true"
        raise InvalidSetting(flag, f"needs a value: {flag} VALUE")
    return rest.pop(0)


def _is_service_link(name: str, text: str, known: Mapping[str, str]) -> bool:
    """A Service called `baton` would set a field called `port`: only the value tells the two apart."""
    if name.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", text):
        return True
    return name not in known and bool(SERVICE_LINK.search(name))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting("config", f"cannot read {path}: {error}") from error
    try:
        match path.suffix:
            case ".toml":
                return tomllib.loads(content)
            case ".json":
                table = json.loads(content, object_pairs_hook=_unique)
            case _:
                raise InvalidSetting("config", f"{path} must end in .toml or .json")
    except ValueError as error:
        raise InvalidSetting("config", f"{path} is broken: {error}") from error
    if not isinstance(table, dict):
        raise InvalidSetting("config", f"{path} must hold a JSON object")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return table


def _flatten(schema: type, table: dict[str, Any], above: str, origin: str, given: dict[str, Given]) -> None:
    hints = get_type_hints(schema)
    names = [one.name for one in fields(schema) if one.init]
    for key, value in table.items():
        path = f"{above}{key}"
        if key not in names:
            known = [f"{above}{name}" for name in names]
            raise InvalidSetting(path, f"there is no such setting{suggestion(path, known)} ({origin})")
        section = section_of(hints[key])
        if section is None:
            given[path] = Given(value, origin, text=False)
        elif isinstance(value, dict):
            _flatten(section, value, f"{path}.", origin, given)
        else:
            raise InvalidSetting(path, f"is a section, so must be a table ({origin})")
