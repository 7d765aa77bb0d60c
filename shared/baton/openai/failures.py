"""Error bodies: what a client reads when a request fails, for HTTP answers and inside streams.

Only the project's own errors speak to clients; of any other exception they learn nothing.
"""

from __future__ import annotations

import msgspec

from baton.core.errors import BatonError, Failed, InvalidField, InvalidRequest, QueueFull, Refused

_TYPES: tuple[tuple[type[BatonError], str], ...] = (
    (InvalidRequest, "invalid_request_error"),
    (QueueFull, "rate_limit_error"),
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
