"""Turns a request's body into one of the types of `requests`, or into an error that names the field.

Every mistake in a body is answered here or by the checks that follow: nothing that a client sent is
dropped in silence, so a misspelt field is an error with a hint, never a default.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

from baton.core.errors import InvalidField, InvalidRequest, UnknownField

T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


def decode_body(body: bytes, kind: type[T]) -> T:
    """A JSON body as `kind`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _named(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}") from error


def convert_field(value: Any, kind: type[T], path: str) -> T:
    """A part of a decoded body, found at `path`, as `kind`."""
    try:
        return msgspec.convert(value, type=kind, str_keys=True)  # JSON's keys are, also those of numbers
    except msgspec.ValidationError as error:
        raise _named(str(error), kind, path) from error


def _named(message: str, kind: type[msgspec.Struct], prefix: str = "") -> InvalidRequest:
    """msgspec says what is wrong and where; the field's path becomes the error's `param`."""
    found = _PLACE.fullmatch(message)
    assert found is not None  # the pattern takes any text
    inner = (found["path"] or "").replace("[...]", "").lstrip(".")
    path = ".".join(part for part in (prefix, inner) if part)
    if unknown := _UNKNOWN.fullmatch(found["what"]):
        name = unknown["name"]
        known = kind.__struct_fields__ if not inner else ()
        return UnknownField(f"{path}.{name}" if path else name, _unrecognized(name, known))
    if not path:
        return InvalidRequest(f"The body is not a request: {found['what']}")
    return InvalidField(path, found["what"])


def _unrecognized(name: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"Unrecognized request argument supplied: {name}{hint}"
