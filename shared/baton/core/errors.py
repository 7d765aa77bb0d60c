"""Every error that Baton raises on purpose, as one tree.

    BatonError
    ├── InvalidRequest          the caller's mistake; never retried
    │   ├── InvalidField        a named field is wrong
    │   │   ├── UnknownField    no such field
    │   │   ├── UnsupportedField  a field or value that is known and not served here
    │   │   ├── PromptTooLong   prompt and output do not fit the model's length
    │   │   ├── CannotContinue  an answer that was begun cannot be gone on with
    │   │   └── UnknownModel    no such model or adapter here
    │   ├── UnknownPath         nothing is served at this path
    │   ├── Unauthenticated     no key, or none that is known here
    │   ├── Forbidden           a key that is known, and may not do this
    │   ├── WrongMethod         not with this HTTP method
    │   ├── WrongContentType    the body is not JSON, or packed in a way that is not read here
    │   ├── BodyTooLarge        more bytes than a body may have
    │   ├── HeadersTooLarge     more bytes than a request's head may have
    │   └── TooSlow             the request did not arrive in time
    ├── Refused                 not now; the caller may try again later
    │   ├── Starting            the worker is not ready yet
    │   ├── QueueFull           a bounded queue is full
    │   ├── RateLimited         this caller asks more often than it may
    │   ├── Draining            the worker is leaving
    │   └── OutOfPages          the pool has no page left for this work
    ├── Failed                  the work was accepted and could not be finished
    │   ├── DeadlineExceeded    a wait ran past its deadline
    │   ├── Cancelled           the client or an operator ended it
    │   ├── PeerLost            the other pod fell silent
    │   │   └── Unreached       nobody answers at its address: it never had the work
    │   ├── StateUnreachable    what the cluster shares can be neither read nor written now
    │   └── WorkerDied          a process of this worker ended
    └── Misconfigured           found while starting; the process exits
        ├── InvalidSetting      a named setting is wrong
        ├── UnsupportedModel    an architecture or feature that no code here serves
        ├── WeightMismatch      a tensor of the checkpoint is missing, extra or mis-shaped
        └── ProtocolMismatch    the peer speaks another version, layout or model

Two facts belong to each class: `retryable` (may the same work succeed elsewhere or later) and
`status` (what HTTP says). Boundaries translate foreign exceptions into these and chain them.
"""

from __future__ import annotations


class BatonError(Exception):
    """Base of all. `code` is the stable word that clients, logs and metrics see."""

    retryable: bool = False
    status: int = 500
    code: str = "internal_error"


class InvalidRequest(BatonError):
    status = 400
    code = "invalid_request"


class InvalidField(InvalidRequest):
    """A field has a value that cannot be served; says which field and what would be right."""

    code = "invalid_value"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class UnknownField(InvalidField):
    code = "unknown_parameter"


class UnsupportedField(InvalidField):
    """The caller asks for something that exists elsewhere; doing without it in silence would be worse."""

    code = "unsupported_value"


class PromptTooLong(InvalidField):
    code = "context_length_exceeded"


class CannotContinue(InvalidField):
    """Asking again will not help, but a new answer may be asked for."""

    status = 412
    code = "cannot_continue"


class UnknownModel(InvalidField):
    status = 404
    code = "model_not_found"


class UnknownPath(InvalidRequest):
    status = 404
    code = "not_found"


class Unauthenticated(InvalidRequest):
    status = 401
    code = "invalid_api_key"


class Forbidden(InvalidRequest):
    status = 403
    code = "permission_denied"


class WrongMethod(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class WrongContentType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class HeadersTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"


class TooSlow(InvalidRequest):
    status = 408
    code = "request_timeout"


class Refused(BatonError):
    retryable = True
    status = 503
    code = "unavailable"
    retry_after_s: float = 1.0
    """When the caller may try again; whoever raises it may know better than the class."""


class Starting(Refused):
    code = "starting"


class QueueFull(Refused):
    status = 429
    code = "queue_full"


class RateLimited(Refused):
    status = 429
    code = "rate_limit_exceeded"


class Draining(Refused):
    code = "draining"


class OutOfPages(Refused):
    code = "out_of_pages"


class Failed(BatonError):
    retryable = True
    code = "failed"
    retry_after_s: float = 1.0


class DeadlineExceeded(Failed):
    status = 504
    code = "deadline_exceeded"


class Cancelled(Failed):
    retryable = False
    status = 499
    code = "cancelled"


class PeerLost(Failed):
    status = 503
    code = "peer_lost"


class Unreached(PeerLost):
    """No connection came about."""


class StateUnreachable(Failed):
    """Redis is gone or refuses. No reason to fail a request: whoever meets it goes on with what it knows."""

    status = 503
    code = "state_unreachable"


class WorkerDied(Failed):
    status = 503
    code = "worker_died"


class Misconfigured(BatonError):
    code = "misconfigured"


class InvalidSetting(Misconfigured):
    code = "invalid_setting"

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting


class UnsupportedModel(Misconfigured):
    code = "unsupported_model"


class WeightMismatch(Misconfigured):
    code = "weight_mismatch"


class ProtocolMismatch(Misconfigured):
    code = "protocol_mismatch"
