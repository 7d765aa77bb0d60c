"""What one rank of a model that is split over GPUs does in test_split; imports nothing slow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from baton.attention.base import Attention, Scales
from baton.attention.triton import TritonAttention
from baton.kernels.triton import TritonKernels
from baton.model import ModelConfig
from baton.model.decoder import load
from baton.parallel import Ranks
from baton.testing.paged import PagedSequences


def attention(
    pool: Tensor, heads: int, scale: float, windows: Sequence[int | None], *, dtype: torch.dtype,
    scales: Sequence[Scales],
) -> Attention:  # fmt: skip
    return TritonAttention(pool, heads, pool.shape[1], scale, window=windows[0], dtype=dtype, scales=scales)


@torch.inference_mode()
def logits(ranks: Ranks, directory: str, dtype: str, cuts: list[int], prompt: list[int]) -> Tensor:
    """After every token of the prompt, computed in pieces that end at `cuts`, then token by token."""
    device = torch.device("cuda", ranks.rank)
    decoder = load(
        ModelConfig.read(Path(directory)), Path(directory), ranks, device, getattr(torch, dtype), "auto",
        TritonKernels(), progress=False,
    )  # fmt: skip
    run = PagedSequences(decoder, [len(prompt)], 16, ranks=ranks.size, attention=attention)
    ends = [*cuts, *range(cuts[-1] + 1, len(prompt) + 1)]
    pieces = [prompt[first:end] for first, end in zip([0, *ends], ends, strict=False)]
    return torch.cat([run.step([(0, piece)]).float().cpu() for piece in pieces])
