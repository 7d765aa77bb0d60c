"""Tensor parallelism: one process a rank, and the collectives between them."""

from __future__ import annotations

import torch

from baton.core.errors import InvalidSetting
from baton.parallel.base import Ranks
from baton.parallel.single import SingleRank
from baton.parallel.torch import TorchRanks

__all__ = ["Ranks", "SingleRank", "TorchRanks", "join_ranks"]


def join_ranks(
    rank: int,
    size: int,
    rendezvous: str,
    device: torch.device,
    *,
    join_deadline_s: float = 120.0,
    deadline_s: float = 60.0,
    all_reduce: str = "auto",
) -> SingleRank | TorchRanks:
    """The collectives of one rank. `rendezvous` is not looked at when there is only one."""
    if size == 1:
        if rank != 0:
            raise InvalidSetting("rank", f"{rank} is not one of 1 ranks")
        return SingleRank()
    return TorchRanks(
        rank, size, rendezvous, device, join_deadline_s=join_deadline_s, deadline_s=deadline_s,
        all_reduce=all_reduce,
    )  # fmt: skip
