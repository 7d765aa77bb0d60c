"""What one rank of a split model does in test_split; imports nothing slow."""

from __future__ import annotations

from pathlib import Path

import torch

from baton.kernels import TorchKernels
from baton.model import ModelConfig
from baton.model.decoder import load
from baton.parallel import Ranks
from baton.testing.paged import PagedSequences

STEPS: list[list[tuple[int, slice]]] = [
    [(0, slice(0, 20)), (1, slice(0, 5))],
    [(0, slice(20, 30)), (1, slice(5, 6))],
    [(1, slice(6, 7)), (0, slice(30, 31))],
]


def logits(ranks: Ranks, models: list[tuple[str, str]], prompt: list[int]) -> list[list[torch.Tensor]]:
    """The logits of the steps above, for each (directory, load format)."""
    return [_steps(ranks, Path(directory), load_format, prompt) for directory, load_format in models]


def _steps(ranks: Ranks, directory: Path, load_format: str, prompt: list[int]) -> list[torch.Tensor]:
    decoder = load(
        ModelConfig.read(directory, load_format),
        directory,
        ranks,
        torch.device("cpu"),
        torch.float32,
        load_format,
        TorchKernels(),
        progress=False,
    )
    run = PagedSequences(decoder, [40, 40], 16, ranks=ranks.size)
    return [run.step([(row, prompt[cut]) for row, cut in step]) for step in STEPS]
