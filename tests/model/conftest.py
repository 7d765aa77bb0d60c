"""Fixtures of the model's tests."""

from tests.model.checkpoints import checkpoint

__all__ = ["checkpoint"]
