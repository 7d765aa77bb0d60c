"""What every layer may import: the types that travel, the errors, time, ids. Standard library only.

Settings are a package of their own: `baton.core.settings`.
"""

from baton.core.clock import Clock, SystemClock
from baton.core.errors import (
    BatonError,
    Cancelled,
    DeadlineExceeded,
    Draining,
    Failed,
    InvalidField,
    InvalidRequest,
    InvalidSetting,
    Misconfigured,
    OutOfPages,
    PeerLost,
    PromptTooLong,
    ProtocolMismatch,
    QueueFull,
    Refused,
    StateUnreachable,
    UnknownModel,
    UnsupportedModel,
    WeightMismatch,
    WorkerDied,
)
from baton.core.ids import attempt_id, incarnation_id, request_id
from baton.core.types import Finish, Request, SamplingParams, TokenLogprob
from baton.core.version import version

__all__ = [
    "BatonError",
    "Cancelled",
    "Clock",
    "DeadlineExceeded",
    "Draining",
    "Failed",
    "Finish",
    "InvalidField",
    "InvalidRequest",
    "InvalidSetting",
    "Misconfigured",
    "OutOfPages",
    "PeerLost",
    "PromptTooLong",
    "ProtocolMismatch",
    "QueueFull",
    "Refused",
    "Request",
    "SamplingParams",
    "StateUnreachable",
    "SystemClock",
    "TokenLogprob",
    "UnknownModel",
    "UnsupportedModel",
    "WeightMismatch",
    "WorkerDied",
    "attempt_id",
    "incarnation_id",
    "request_id",
    "version",
]
