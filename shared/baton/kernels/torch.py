"""The kernels in plain torch: the reference for the fused ones, and what a CPU runs.

Stateless. Runs on any device; all but `experts` can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from baton.attention.base import UNSCALED, Scales, Spans
from baton.kernels import fp8


class TorchKernels:
    """`baton.kernels.base.Kernels` on any device."""

    def prepare(self, weights: Sequence[Tensor], most: int) -> None:
        """torch chooses by itself."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def linear_fp8(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return fp8.linear(x, weight, scale, bias)

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if x.dtype == torch.float32:
            return F.rms_norm(x, (x.shape[-1],), weight, eps)
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        residual = residual.add_(x)
        return self.norm(residual, weight, eps), residual

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

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
        kv_heads, page_size, head_dim = pool.shape[1], pool.shape[4], pool.shape[5]
        by_head = qkv.view(qkv.shape[0], -1, head_dim)
        heads = by_head.shape[1] - 2 * kv_heads
        q, k, v = torch.split(by_head, [heads, kv_heads, kv_heads], dim=1)
        if norms is not None:
            q, k = self.norm(q, norms[0], eps), self.norm(k, norms[1], eps)
        cos, sin = cos_sin[spans.positions].unsqueeze(1).chunk(2, dim=-1)
        pages = spans.table[spans.token_rows, spans.positions // page_size]
        slots = spans.positions % page_size
        k = _rotated(k, cos, sin)
        if pool.dtype == fp8.FP8:
            k, v = fp8.kept(k, scales.k).view(torch.uint8), fp8.kept(v, scales.v).view(torch.uint8)
            pool = pool.view(torch.uint8)  # whatever torch can do with eight-bit floats, it can move bytes
        pool[:, :, layer, 0][pages, :, slots] = k
        pool[:, :, layer, 1][pages, :, slots] = v
        turned = _rotated(q, cos, sin)
        return turned if out is None else out.copy_(turned)

    def experts(self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Asks the device which experts were hit: not for captured graphs."""
        order = chosen.flatten().argsort(stable=True)
        tokens = order // chosen.shape[1]
        share = weights.flatten()[order].unsqueeze(-1).to(x.dtype)
        out = torch.zeros_like(x)
        start = 0
        for expert, count in enumerate(torch.bincount(chosen.flatten(), minlength=len(down)).tolist()):
            if count:
                hit = slice(start, start + count)
                inner = self.silu_mul(F.linear(x[tokens[hit]], gate_up[expert]))
                out.index_add_(0, tokens[hit], F.linear(inner, down[expert]) * share[hit])
                start += count
        return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N, heads, head_dim] turned in halves by cos and sin [N, 1, head_dim / 2], computed in float32."""
    first, second = x.float().chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    return out.to(x.dtype)
