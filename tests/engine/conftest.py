"""Fixtures of the engine's tests."""

from tests.checkpoints import checkpoint

__all__ = ["checkpoint"]
