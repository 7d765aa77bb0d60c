"""Where Triton kernels are tested: on the GPU where there is one, else on the CPU in Triton's interpreter.

Import this before anything that defines a kernel: Triton reads at definition whether to interpret.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton's interpreter needs numpy < 2.4", allow_module_level=True)
pytest.importorskip("triton")

DEVICE = torch.device("cuda" if CUDA else "cpu")
HALF = torch.bfloat16 if CUDA else torch.float16
"""The interpreter cuts float32 off to bfloat16 where hardware rounds, and cannot multiply bfloat16 tiles."""

QUIET = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
"""What the interpreter's numpy says on the way."""
