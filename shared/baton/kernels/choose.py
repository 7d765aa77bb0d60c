"""The small kernels for a device: fused ones on CUDA, plain torch elsewhere."""

from __future__ import annotations

import torch

from baton.kernels.base import Kernels


def choose_kernels(device: torch.device) -> Kernels:
    if device.type == "cuda":
        from baton.kernels.triton import TritonKernels

        # Programmatic dependent launch: a kernel's start hides behind the end of the one before it.
        return TritonKernels(pdl=torch.cuda.get_device_capability(device) >= (9, 0))
    from baton.kernels.torch import TorchKernels

    return TorchKernels()
