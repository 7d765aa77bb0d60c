"""Fixtures of the lending tests."""

from tests.checkpoints import checkpoint

__all__ = ["checkpoint"]
