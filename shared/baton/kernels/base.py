"""What the model computes with: matrix products, and the small operations between them.

Two implementations: `torch` (any device, the reference) and `triton` (CUDA, fused). Numerics follow
Hugging Face transformers: norms and rotary embeddings in float32, results in the input's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from baton.attention.base import UNSCALED, Scales, Spans


class Kernels(Protocol):
    def prepare(self, weights: Sequence[Tensor], most: int) -> None:
        """Called once, when weights are loaded: choose how to multiply by each, for batches up to `most`."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [N, inputs], weight [outputs, inputs] → x @ weight.T + bias."""
        ...

    def linear_fp8(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """As `linear` with weight in float8_e4m3fn and scale [outputs] float32 to multiply its rows by. Each
        row of x is scaled by its largest value and rounded to float8_e4m3fn too; sums are float32."""
        ...

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMS norm over the last dimension."""
        ...

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual). May write into its inputs."""
        ...

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """[N, 2 * I] → silu(first half) * second half."""
        ...

    def rotate_store(
        self,
        qkv: Tensor,
        pool: Tensor,
        layer: int,
        spans: Spans,
        cos_sin: Tensor,
        norms: tuple[Tensor, Tensor] | None,
        eps: float,
        scales: Scales = UNSCALED,
        out: Tensor | None = None,
    ) -> Tensor:
        """qkv [N, (heads + 2 * kv_heads) * head_dim]: normalise q and k per head when `norms` (q, k weights)
        is given, rotate both by `cos_sin` ([positions, head_dim] float32: cos of each frequency, then sin;
        rotation in halves, as transformers does), write k and v into the pool at the spans' places, and
        return q [N, heads, head_dim], in `out` if given. A pool in eight bits gets k and v divided by the
        layer's `scales`."""
        ...

    def experts(self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Mixture of experts. x [N, H]; gate_up [E, 2 * I, H]; down [E, H, I]; weights [N, K] float32 and
        chosen [N, K] int64 from the router → [N, H]."""
        ...
