"""Attention over the paged pool."""

from baton.attention.base import UNSCALED, Attention, HostShape, Scales, Spans
from baton.attention.torch import TorchAttention

__all__ = ["UNSCALED", "Attention", "HostShape", "Scales", "Spans", "TorchAttention"]
