"""From what a file, a variable or a flag says to a value of the type that a setting declares.

`from_value` takes what TOML and JSON yield and is strict: the text "16" is no integer. `from_text`
takes what a shell yields. Both raise CastError, which says what would have been right; the caller
knows the setting's name and whether its value may be shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from baton.core.suggest import hint as suggestion

WORDS = {"true": True, "yes": True, "on": True, "1": True}
WORDS |= {"false": False, "no": False, "off": False, "0": False}


class CastError(ValueError):
    """`rule` completes "must be …"; or, with `whole`, is all there is to say."""

    def __init__(self, rule: str, *, whole: bool = False) -> None:
        super().__init__(rule)
        self.rule = rule
        self.whole = whole


def describe(hint: Any) -> str:
    """A type in words: completes both "must be …" and a listing."""
    if choices := _choices(hint):
        return ("one of " if len(choices) > 1 else "") + ", ".join(choices)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(part) for part in parts)
    if origin is tuple:
        if parts[1:] == (Ellipsis,):
            return f"a list of: {describe(parts[0])}"
        return f"a list of {len(parts)}: {', '.join(describe(part) for part in parts)}"
    if origin in (dict, Mapping):
        return f"a table of: {describe(parts[1])}"
    if is_dataclass(hint):
        return "a table"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
    return "none" if hint is NoneType else names[hint]


def from_text(hint: Any, text: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first(parts, text, from_text)
    if origin is tuple and not text.lstrip().startswith("["):
        words = [word.strip() for word in text.split(",")] if text.strip() else []
        return _tuple(hint, words, from_text)
    if origin in (dict, Mapping) and not text.lstrip().startswith("{"):
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise CastError(f"{describe(hint)}, as key=value,key=value or JSON")
        return {key.strip(): from_text(parts[1], value.strip()) for key, _, value in pairs}
    if origin in (tuple, dict, Mapping) or is_dataclass(hint):
        try:
            return from_value(hint, json.loads(text))
        except json.JSONDecodeError as error:
            raise CastError(f"{describe(hint)}, and its JSON is broken: {error}") from error
    return _scalar_from_text(hint, text)


def from_value(hint: Any, value: object) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first(parts, value, from_value)
    if origin is tuple and isinstance(value, list):
        return _tuple(hint, value, from_value)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {str(key): from_value(parts[1], each) for key, each in value.items()}
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _record(hint, value)
    if choices := _choices(hint):
        for name, choice in choices.items():
            if value == name or (type(value) is type(choice) and value == choice):
                return choice
        raise CastError(describe(hint))
    return _scalar_from_value(hint, value)


def _scalar_from_text(hint: Any, text: str) -> Any:
    if choices := _choices(hint):
        if text in choices:
            return choices[text]
    elif hint is str:
        return text
    elif hint is Path:
        return Path(text)
    elif hint is bool:
        if text.lower() in WORDS:
            return WORDS[text.lower()]
    elif hint is NoneType:
        if text.lower() == "none":
            return None
    elif hint in (int, float):
        try:
            number = hint(text)
        except ValueError as error:
            raise CastError(describe(hint)) from error
        if math.isfinite(number):
            return number
    raise CastError(describe(hint))


def _scalar_from_value(hint: Any, value: object) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match hint, value:
        case (_, str()) if hint is str:
            return value
        case (_, str()) if hint is Path:
            return Path(value)
        case (_, bool()) if hint is bool:
            return value
        case (_, None | "none") if hint is NoneType:
            return None
        case (_, int()) if number and hint is int:
            return value
        # Templating tools turn every number into a float on the way, so 16.0 is the integer 16.
        case (_, float()) if hint is int and value.is_integer():
            return int(value)
        case (_, int() | float()) if number and hint is float and math.isfinite(value):
            return float(value)
    raise CastError(describe(hint))


def _choices(hint: Any) -> dict[str, Any]:
    """What each word means, for the types that are a choice among words."""
    if get_origin(hint) is Literal:
        return {str(choice): choice for choice in get_args(hint)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {str(choice.value): choice for choice in hint}
    return {}


def _first(parts: tuple[Any, ...], given: Any, cast: Callable[[Any, Any], Any]) -> Any:
    """The first member of a union that takes the value; text takes anything, so it is asked last."""
    for part in sorted(parts, key=lambda part: (part in (str, Path), part is not NoneType)):
        try:
            return cast(part, given)
        except CastError:
            continue
    raise CastError(" or ".join(describe(part) for part in parts))


def _tuple(hint: Any, items: list[Any], cast: Callable[[Any, Any], Any]) -> tuple[Any, ...]:
    parts = get_args(hint)
    wanted = (parts[0],) * len(items) if parts[1:] == (Ellipsis,) else parts
    if len(wanted) != len(items):
        raise CastError(f"{describe(hint)}, not of {len(items)}")
    return tuple(cast(part, item) for part, item in zip(wanted, items, strict=True))


def _record(schema: type, table: dict[str, object]) -> Any:
    """A settings class inside a list or a table; its fields have no flags of their own."""
    hints = get_type_hints(schema)
    names = [one.name for one in fields(schema)]
    for key in table:
        if key not in names:
            raise CastError(f"{schema.__name__} has no field {key!r}{suggestion(key, names)}", whole=True)
    given = {}
    for key, value in table.items():
        try:
            given[key] = from_value(hints[key], value)
        except CastError as error:
            raise error if error.whole else CastError(f"{key} must be {error.rule}", whole=True) from error
    try:
        return schema(**given)
    except TypeError as error:
        raise CastError(f"{schema.__name__}: {error}", whole=True) from error
    except ValueError as error:
        raise CastError(str(error), whole=True) from error
