"""Decode attention for Hopper GPUs, Baton's own kernel: no plan on the host, the pool read at memory speed.

The engine asks `HopperDecode.supported` first and keeps another attention for what it refuses.
"""

from baton.attention.hopper.compiler import Tuning
from baton.attention.hopper.decode import HopperDecode

__all__ = ["HopperDecode", "Tuning"]
