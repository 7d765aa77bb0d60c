"""Up to how many bytes a sum over ranks is faster through peer memory than through NCCL, as measured.

`TorchRanks` asks once, when all ranks have met: each size is timed both ways in a captured graph, as decode
steps run it, on all ranks at the same time. A rank's times differ a little from another's, and the ranks must
decide alike, so all decide on the slowest rank's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baton.kernels.capture import replay_us

SIZES = tuple(4096 << step for step in range(11))
"""Bytes of the sums that are timed, as far as they fit: 4 KiB to 4 MiB."""
LAUNCHES = 20
"""Sums in one graph."""
REPLAYS = 9


@dataclass(frozen=True, slots=True)
class Timing:
    """One size, in microseconds a sum."""

    size: int
    nccl: float
    peer: float


def slowest(of_ranks: Sequence[Sequence[Timing]]) -> list[Timing]:
    """What all ranks together take, by size."""
    return [
        Timing(same[0].size, max(one.nccl for one in same), max(one.peer for one in same))
        for same in zip(*of_ranks, strict=True)
    ]


def faster_up_to(timings: Sequence[Timing]) -> int:
    """The largest size up to which peer memory always won; 0 when it did not even for the smallest."""
    most = 0
    for one in sorted(timings, key=lambda one: one.size):
        if one.peer >= one.nccl:
            break
        most = one.size
    return most


def replayed(call: Callable[[Tensor], Tensor], size: int, device: torch.device) -> float:
    """Median µs of one sum of `size` bytes among others, on this rank. All ranks call it together."""
    x = torch.zeros(size // 2, dtype=torch.bfloat16, device=device)

    def launch() -> None:
        for _ in range(LAUNCHES):
            call(x)

    return replay_us(launch, device, REPLAYS) / LAUNCHES
