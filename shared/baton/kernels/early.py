"""Whether a device can start a kernel before the one ahead of it has ended.

Programmatic dependent launch (PDL), compute capability 9.0 or later: a kernel's launch and its reading of
weights overlap the tail of the kernel before it. Every kernel launched so waits, before it touches anything
that another kernel writes. Asked by whoever launches Triton kernels and was told nothing else.
"""

from __future__ import annotations

import functools

import torch


@functools.cache
def starts_early(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
