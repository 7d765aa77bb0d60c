"""What every message between a worker's processes has, and the version that all of them speak."""

from __future__ import annotations

import msgspec

VERSION = 2
"""Raised when a message changes its meaning; both ends must agree."""


class Message(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """Base of every message; its class name is its tag."""
