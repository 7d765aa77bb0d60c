"""Processes that share one port, and what they tell each other: any of them answers for all."""

from baton.router.siblings.ask import Siblings
from baton.router.siblings.told import (
    Begun,
    Ended,
    Message,
    Observed,
    Placed,
    Second,
    State,
    Ticked,
    Told,
    encode,
)

__all__ = [
    "Begun",
    "Ended",
    "Message",
    "Observed",
    "Placed",
    "Second",
    "Siblings",
    "State",
    "Ticked",
    "Told",
    "encode",
]
