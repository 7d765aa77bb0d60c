"""Fixtures of the decode pod's tests."""

from tests.checkpoints import checkpoint

__all__ = ["checkpoint"]
