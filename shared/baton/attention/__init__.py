"""Attention over the paged pool."""

from baton.attention.base import Attention, HostShape, Spans
from baton.attention.torch import TorchAttention

__all__ = ["Attention", "HostShape", "Spans", "TorchAttention"]
