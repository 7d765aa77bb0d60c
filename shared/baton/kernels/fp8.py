"""Eight-bit floats: how weights, rows of x, keys and values are scaled and rounded. Plain torch, any device.

The reference for the fused kernels, and what a CPU multiplies with. Stateless.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""Of float8_e4m3fn, which has no infinity: what lies beyond may become NaN, so nothing may."""
SMALLEST = 1e-12
"""Of a row's largest value: rows of zeros are divided by this."""


def scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] → the same rounded to FP8 after each row was divided by its scale; scales [N] float32."""
    wide = x.float()
    scale = wide.abs().amax(dim=-1).clamp_(min=SMALLEST) / LARGEST
    return (wide / scale.unsqueeze(-1)).clamp_(-LARGEST, LARGEST).to(FP8), scale


def kept(x: Tensor, scale: float) -> Tensor:
    """Keys or values as an eight-bit pool keeps them: finite ones stay finite, however large."""
    wide = x.float()
    return (wide if scale == 1.0 else wide / scale).clamp(-LARGEST, LARGEST).to(FP8)


def linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """What `Kernels.linear_fp8` says, in float32 and then x's dtype."""
    rounded, row_scale = scaled(x)
    sums = F.linear(rounded.float(), weight.float()) * row_scale.unsqueeze(-1) * scale
    return (sums if bias is None else sums + bias.float()).to(x.dtype)
