"""The small kernels for a device: fused ones on CUDA, plain torch elsewhere."""

from __future__ import annotations

import torch

from baton.kernels.base import Kernels


def choose_kernels(device: torch.device) -> Kernels:
    if device.type == "cuda":
        from baton.kernels.triton import TritonKernels

        return TritonKernels()
    from baton.kernels.torch import TorchKernels

    return TorchKernels()
