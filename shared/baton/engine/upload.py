"""Host integers to the device in one copy that nobody waits for.

On a GPU the arrays of a step are packed into one pinned buffer. The copy is asynchronous, so the
buffer may be written again only after the event that follows it: a small ring, each with its event.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from baton.sampling.fresh import Ints

RING = 4
"""Buffers in turn: more than the steps that can be in flight."""


class Upload:
    def __init__(self, device: torch.device, capacity: int) -> None:
        """`capacity`: most integers in one call; larger calls take a buffer of their own."""
        self.device = device
        self.capacity = capacity
        self._next = 0
        self._pinned: list[Tensor] = []
        self._copied: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._pinned = [torch.empty(capacity, dtype=torch.int32, pin_memory=True) for _ in range(RING)]
            self._copied = [torch.cuda.Event() for _ in range(RING)]

    def __call__(self, arrays: Sequence[Ints]) -> list[Tensor]:
        """One int32 tensor on the device for each array."""
        if self.device.type == "cpu":
            return [torch.tensor(a, dtype=torch.int32) for a in arrays]
        sizes = [len(a) for a in arrays]
        total = sum(sizes)
        if total > self.capacity:
            flat = torch.from_numpy(np.concatenate(arrays)).pin_memory().to(self.device, non_blocking=True)
            return list(flat.split(sizes))
        at = self._next = (self._next + 1) % RING
        self._copied[at].synchronize()
        pinned = self._pinned[at]
        np.concatenate(arrays, out=pinned.numpy()[:total])
        flat = pinned[:total].to(self.device, non_blocking=True)
        self._copied[at].record()
        return list(flat.split(sizes))
