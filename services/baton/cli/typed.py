"""What people type and every command understands alike."""

from __future__ import annotations

from pathlib import Path

import httpx

from baton.core.errors import InvalidSetting


def address(text: str, setting: str = "url") -> str:
    """Of a server: http:// may be left out, and /v1 may stand behind it, as OpenAI's clients have it."""
    found = text.rstrip("/").removesuffix("/v1")
    found = found if "://" in found else f"http://{found}"
    try:
        host = httpx.URL(found).host
    except httpx.InvalidURL as error:
        raise InvalidSetting(setting, f"{text!r} is no address: {error}") from error
    if not host:
        raise InvalidSetting(setting, f"{text!r} names no host")
    return found


def output(text: str, setting: str) -> Path:
    """A file that is to be written in the end: what keeps it from that is said before the work."""
    found = Path(text)
    if found.is_dir():
        raise InvalidSetting(setting, f"{text} is a directory")
    if not found.parent.is_dir():
        raise InvalidSetting(setting, f"cannot write {text}: there is no directory {found.parent}")
    return found
