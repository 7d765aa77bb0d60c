"""What the ranks do in the tests beside this file; imports nothing slow."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from baton.core.errors import WorkerDied
from baton.parallel import Ranks, TorchRanks
from baton.parallel.peer import Unavailable, agree


def collectives(ranks: Ranks) -> dict[str, torch.Tensor]:
    mine = torch.arange(6.0).view(2, 3) + 10 * ranks.rank
    shared = torch.full((3,), ranks.rank + 5)
    return {
        "sum": ranks.sum(mine.clone()),
        "narrow sum": ranks.sum(mine.bfloat16()),
        "join": ranks.join(mine),
        "share": ranks.share(shared),
        "strided join": ranks.join(mine.t()),
    }


def left_alone(ranks: Ranks, over: Path) -> str:
    """Rank 1 is stuck until rank 0, which waits for it, has written the file `over`."""
    if ranks.rank == 1:
        for _ in range(600):
            if over.exists():
                return ""
            time.sleep(0.05)
        return "rank 0 still waits"
    try:
        ranks.sum(torch.ones(1))
    except WorkerDied as error:
        return str(error)
    finally:
        over.touch()
    return "the sum of one rank was taken for that of two"


def agreed(ranks: TorchRanks) -> tuple[list[str], str]:
    """A step that all can take, and one that rank 1 cannot."""

    def hard() -> str:
        if ranks.rank == 1:
            raise RuntimeError("no such\nGPU")
        return ""

    said = agree(ranks.exchange, ranks.rank, "easy", lambda: f"from {ranks.rank}")
    try:
        agree(ranks.exchange, ranks.rank, "hard", hard)
    except Unavailable as error:
        return said, str(error)
    return said, ""
