"""Reads a request's body within a size and a time. Called by endpoints, once, before anything is done.

A client that says how much it brings is refused before it sends it.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from baton.core.errors import BodyTooLarge, Cancelled, InvalidRequest, TooSlow, WrongContentType
from baton.http.settings import HttpSettings

_DIGITS = 18
_SHOWN = 40


def header(scope: Scope, name: bytes) -> str | None:
    """A request header's first value."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def is_number(given: str, most: int) -> bool:
    """A count up to `most`. Python reads no number of thousands of digits, which a header may have."""
    return given.isdecimal() and len(given) <= _DIGITS and int(given) <= most


def expect(scope: Scope, wanted: str = "application/json") -> None:
    """That the body is of a kind, which a client need not say."""
    kind = (header(scope, b"content-type") or wanted).partition(";")[0].strip().lower()
    if kind != wanted:
        raise WrongContentType(f"the body must be {wanted}, not {kind}")
    packing = (header(scope, b"content-encoding") or "identity").strip().lower()
    if packing != "identity":
        raise WrongContentType(f"bodies are not unpacked; send it without content-encoding {packing}")


async def read_body(scope: Scope, receive: Receive, settings: HttpSettings) -> bytes:
    limit = settings.max_body_bytes
    announced = header(scope, b"content-length")
    if announced is not None and not is_number(announced, limit):
        raise BodyTooLarge(f"the body has {announced[:_SHOWN]} bytes; the most is {limit}")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Cancelled("the client left while it sent its request")
                parts.append(message["body"])
                size += len(parts[-1])
                if size > limit:
                    raise BodyTooLarge(f"the body has more than {limit} bytes, which is the most")
                if not message["more_body"]:
                    break
    except TimeoutError as error:
        raise TooSlow(f"the body took more than {settings.body_s:g} seconds") from error
    if not size:
        raise InvalidRequest("The body is empty")
    return parts[0] if len(parts) == 1 else b"".join(parts)
