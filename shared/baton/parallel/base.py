"""Tensor parallelism seen from one rank: its number and the collectives the model needs.

Implementations: `single` (one rank, no communication), `gloo` (CPU), `nccl` (CUDA). Every rank must
call the same collectives in the same order with the same shapes; rank 0 alone decides what runs.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Ranks(Protocol):
    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, x: Tensor) -> Tensor:
        """Sum over ranks; may work in place; the result is on every rank."""
        ...

    def join(self, x: Tensor) -> Tensor:
        """Concatenate the ranks' [N, V / size] along the last dimension; the result is on every rank."""
        ...

    def share(self, x: Tensor) -> Tensor:
        """Rank 0's values, on every rank; in place."""
        ...
