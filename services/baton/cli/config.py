"""`baton config`: a service's settings, and with `--explain` where each value comes from.

    baton config decode --explain --config baton.toml --logs.level debug
    baton config --reference                    every service's settings, as Markdown

Reads the same file, environment and flags as the service would, and starts nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module

from baton.core.errors import InvalidSetting
from baton.core.settings import from_command_line
from baton.core.suggest import hint

SETTINGS: Mapping[str, str] = {
    "decode": "baton.decode.settings:DecodeSettings",
    "logs": "baton.telemetry:LogSettings",
    "prefill": "baton.prefill.settings:PrefillSettings",
    "router": "baton.router.settings:RouterSettings",
}
"""What can be listed: name → `module:class`. Services add their settings class here."""

SERVICES = ("router", "prefill", "decode")
"""Those that run as pods, in the order of the reference."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="baton config",
        usage="baton config NAME [--explain] [--config FILE] [--SETTING VALUE ...] | --reference",
        description="List the settings of NAME; with --explain, their values and where those come from.",
        epilog=f"names: {', '.join(sorted(SETTINGS))}, or MODULE:CLASS",
    )
    parser.add_argument("name", metavar="NAME", nargs="?")
    parser.add_argument("--reference", action="store_true", help="every service's settings, as Markdown")
    given = parser.parse_args(arguments[:1])
    if given.reference:
        from baton.cli.reference import reference

        print(reference({name: _find(name) for name in SERVICES}), end="")
        return 0
    if given.name is None:
        parser.error("whose settings? give a NAME")
    name = given.name
    rest = list(arguments[1:])
    from_command_line(_find(name), f"baton config {name}", rest or ["--help"], os.environ)
    return 0


def _find(name: str) -> type:
    target = name if ":" in name else SETTINGS.get(name)
    if target is None:
        raise InvalidSetting("NAME", f"no settings are called {name!r}{hint(name, SETTINGS)}")
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InvalidSetting("NAME", f"cannot import {target}: {error}") from error
    if not (isinstance(found, type) and is_dataclass(found)):
        raise InvalidSetting("NAME", f"{target} is no settings class")
    return found
