"""Error bodies: what a client reads when a request fails, for HTTP answers and inside streams.

Only the project's own errors speak to clients; of any other exception they learn nothing. A router makes the
error again from what a pod wrote (`read_error`), to judge it and to pass it on.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from baton.core.errors import (
    BatonError,
    Failed,
    Forbidden,
    InvalidField,
    InvalidRequest,
    QueueFull,
    RateLimited,
    Refused,
    Unauthenticated,
)

_TYPES: tuple[tuple[type[BatonError], str], ...] = (
    (Unauthenticated, "authentication_error"),
    (Forbidden, "permission_error"),
    (InvalidRequest, "invalid_request_error"),
    (QueueFull, "rate_limit_error"),
    (RateLimited, "rate_limit_error"),
    (Refused, "service_unavailable_error"),
    (Failed, "server_error"),
)


def status_of(error: BaseException) -> int:
    return error.status if isinstance(error, BatonError) else BatonError.status


def error_body(error: BaseException) -> bytes:
    known = isinstance(error, BatonError)
    kind = next((word for cls, word in _TYPES if isinstance(error, cls)), "server_error")
    shown = {
        "message": str(error) or type(error).__name__ if known else "internal error",
        "type": kind,
        "param": error.field if isinstance(error, InvalidField) else None,
        "code": error.code if isinstance(error, BatonError) else BatonError.code,
    }
    return msgspec.json.encode({"error": shown})


def error_event(error: BaseException) -> bytes:
    """Ends a failed stream; no `[DONE]` follows it."""
    return b"data: " + error_body(error) + b"\n\n"


class _Shown(msgspec.Struct):
    message: str = ""
    param: str | None = None
    code: str | None = None


class _Body(msgspec.Struct):
    error: _Shown


def read_error(body: bytes) -> BatonError:
    """The error that `error_body` was made of; a plain BatonError where nobody here knows its code."""
    try:
        shown = msgspec.json.decode(body, type=_Body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return BatonError(f"an answer that is no error of ours: {body[:80]!r}")
    kind = _BY_CODE.get(shown.code or "", BatonError)
    error = kind.__new__(kind)
    Exception.__init__(error, shown.message)
    if isinstance(error, InvalidField):
        error.field = shown.param or ""
    return error


def _tree(kind: type[BatonError]) -> Iterator[type[BatonError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


_BY_CODE = {kind.code: kind for kind in reversed(list(_tree(BatonError)))}
"""Of classes with one code, the one that is nearest to the root."""
