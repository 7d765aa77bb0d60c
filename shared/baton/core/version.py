"""Which release this is. pyproject.toml alone knows; installing copies it into the package's metadata."""

from __future__ import annotations

from importlib import metadata

UNINSTALLED = "0+uninstalled"
"""What a source tree on the path, never installed, calls itself."""


def version() -> str:
    try:
        return metadata.version("baton")
    except metadata.PackageNotFoundError:
        return UNINSTALLED
