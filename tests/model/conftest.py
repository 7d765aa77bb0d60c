"""Fixtures of the model's tests."""

from tests.checkpoints import checkpoint

__all__ = ["checkpoint"]
