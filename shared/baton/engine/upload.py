"""Host integers to the device in one copy that nobody waits for.

On a GPU the arrays of a step are packed into one pinned buffer. The copy is asynchronous, so the
buffer may be written again only after the event that follows it: a small ring, each with its event.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from baton.sampling.fresh import Ints

ALIGNED = 32
"""Every array begins at a multiple of this many integers: kernels compiled for aligned pointers take it."""
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
        begins = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([-(-len(a) // ALIGNED) * ALIGNED for a in arrays], out=begins[1:])
        total = int(begins[-1])
        if total > self.capacity:
            flat = self._packed(torch.empty(total, dtype=torch.int32, pin_memory=True), arrays, begins)
            return self._parts(flat.to(self.device, non_blocking=True), arrays, begins)
        at = self._next = (self._next + 1) % RING
        self._copied[at].synchronize()
        flat = self._packed(self._pinned[at][:total], arrays, begins).to(self.device, non_blocking=True)
        self._copied[at].record()
        return self._parts(flat, arrays, begins)

    @staticmethod
    def _packed(pinned: Tensor, arrays: Sequence[Ints], begins: npt.NDArray[np.int64]) -> Tensor:
        host = pinned.numpy()
        for array, begin in zip(arrays, begins, strict=False):
            host[begin : begin + len(array)] = array
        return pinned

    @staticmethod
    def _parts(flat: Tensor, arrays: Sequence[Ints], begins: npt.NDArray[np.int64]) -> list[Tensor]:
        return [
            flat[begin : begin + len(array)] for array, begin in zip(arrays, begins.tolist(), strict=False)
        ]
