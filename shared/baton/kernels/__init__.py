"""The small operations between the matrix products."""

from baton.kernels.base import Kernels
from baton.kernels.torch import TorchKernels

__all__ = ["Kernels", "TorchKernels"]
