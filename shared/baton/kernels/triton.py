"""The model's small operations as fused Triton kernels, on CUDA.

Constructed once by the engine and called by the model's layers. Owns shapes, launch options and scratch;
the kernels are in `triton_rows`, `triton_rotate` and `triton_experts`. Nothing here waits for the device or
depends on its data, so every operation can be captured in a graph. Counts of tokens are never compiled in:
a new batch size must not compile a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from baton.attention.base import UNSCALED, Scales, Spans
from baton.kernels import fp8
from baton.kernels.early import starts_early
from baton.kernels.products import Products
from baton.kernels.triton_experts import expert_down, expert_gate_up, expert_sum, route
from baton.kernels.triton_rotate import rotate_store_heads
from baton.kernels.triton_rows import add_norm_rows, norm_rows, scale_rows, silu_mul_rows

SHARED_BYTES = 227 << 10
"""Of one program on Hopper."""
MIN_BINS = 32
"""A histogram narrower than a warp gains nothing."""


def power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


class TritonKernels:
    """`Kernels` for CUDA. Inputs are contiguous; x and residual of `add_norm` are overwritten."""

    def __init__(self, pdl: bool | None = None) -> None:
        """`pdl`: launch each kernel before the one ahead of it has ended (`early`); None where it can be."""
        if pdl is None:
            pdl = torch.cuda.is_available() and starts_early(
                torch.device("cuda", torch.cuda.current_device())
            )
        self._pdl = pdl
        self._products: Products | None = None
        """Made by `prepare`."""
        self._launch = {"launch_pdl": True} if pdl else {}
        self._shared = SHARED_BYTES
        if torch.cuda.is_available():
            device = triton.runtime.driver.active.utils.get_device_properties(torch.cuda.current_device())
            self._shared = device["max_shared_mem"]

    def __repr__(self) -> str:
        return f"TritonKernels(pdl={self._pdl})"

    def prepare(self, weights: Sequence[Tensor], most: int) -> None:
        if weights and weights[0].is_cuda:
            self._products = Products(weights[0].device, self._pdl, self.silu_mul)
            self._products.prepare(weights, most)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias) if self._products is None else self._products.linear(x, weight, bias)

    def linear_fp8(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        if not x.is_cuda:
            return fp8.linear(x, weight, scale, bias)
        rows, depth = x.shape
        rounded = torch.empty((rows, depth), dtype=fp8.FP8, device=x.device)
        scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
        if rows == 0:
            return x.new_empty((0, weight.shape[0]))
        block = min(power(depth), 4096)
        scale_rows[(rows,)](
            x, rounded, scales, LARGEST=fp8.LARGEST, SMALLEST=fp8.SMALLEST, DEPTH=depth, BLOCK=block,
            PDL=self._pdl, num_warps=8, **self._launch,
        )  # fmt: skip
        out = torch._scaled_mm(
            rounded, weight.t(), scale_a=scales, scale_b=scale.unsqueeze(0), out_dtype=x.dtype,
            use_fast_accum=True,
        )  # fmt: skip
        return out if bias is None else out.add_(bias)

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        hidden = x.shape[-1]
        rows = x.numel() // hidden
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if rows == 0:
            return out
        if x.dim() != 2:
            x = x.reshape(rows, hidden)
        block = power(hidden)
        together = max(1, min(16, 1024 // block))
        norm_rows[(triton.cdiv(rows, together),)](
            x, weight, out, rows, x.stride(0), eps, H=hidden, BLOCK=block, ROWS=together, PDL=self._pdl,
            num_warps=max(4, min(16, block // 256)), **self._launch,
        )  # fmt: skip
        return out

    def add_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows, hidden = x.shape
        if rows:
            block = power(hidden)
            add_norm_rows[(rows,)](
                x, residual, weight, eps, H=hidden, BLOCK=block, PDL=self._pdl,
                num_warps=max(1, min(16, block // 256)), **self._launch,
            )  # fmt: skip
        return x, residual

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
        if rows:
            block = min(1024, power(width))
            silu_mul_rows[(rows * triton.cdiv(width, block),)](
                gate_up, out, INNER=width, BLOCK=block, PDL=self._pdl, num_warps=4, **self._launch
            )
        return out

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
        _, kv_heads, _, _, page_size, head_dim = pool.shape
        tokens = qkv.shape[0]
        heads = qkv.shape[1] // head_dim - 2 * kv_heads
        shape = (tokens, heads, head_dim)
        q = torch.empty(shape, dtype=qkv.dtype, device=qkv.device) if out is None else out.view(shape)
        if tokens == 0:
            return q
        group, kv_group = min(8, power(heads)), min(8, power(kv_heads))
        q_weight, k_weight = norms if norms is not None else (qkv, qkv)
        programs = triton.cdiv(heads, group) + triton.cdiv(kv_heads, kv_group)
        page_stride, head_stride, layer_stride, value_stride, _, _ = pool.stride()
        rotate_store_heads[(tokens, programs)](
            qkv, q, pool, cos_sin, q_weight, k_weight, spans.table, spans.token_rows, spans.positions, layer,
            eps, scales.k, scales.v, spans.table.stride(0), page_stride, head_stride, layer_stride,
            value_stride,
            HEADS=heads, KV_HEADS=kv_heads, D=head_dim, PAGE=page_size, NORM=norms is not None,
            GROUP=group, KV_GROUP=kv_group, PDL=self._pdl, num_warps=4, **self._launch,
        )  # fmt: skip
        return q

    def experts(self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        tokens, hidden = x.shape
        count, _, inner = down.shape
        choices = chosen.shape[1]
        pairs = tokens * choices
        out = torch.empty_like(x)
        if pairs == 0:
            return out
        m, n, k, warps, stages = expert_blocks(pairs, count, x.dtype, self._shared)
        limit = pairs // m + min(count, pairs)
        bins = max(MIN_BINS, power(count))
        order, cursors, tiles, total = (
            torch.empty(size, dtype=torch.int32, device=x.device) for size in (pairs, bins, (3, limit), 1)
        )
        route[(1,)](
            chosen, order, cursors, tiles, total, pairs, limit,
            BINS=bins, BLOCK_M=m, CHUNK=1024, PDL=self._pdl, num_warps=8, **self._launch,
        )  # fmt: skip
        active = torch.empty((pairs, inner), dtype=x.dtype, device=x.device)
        results = torch.empty((pairs, hidden), dtype=x.dtype, device=x.device)
        precision = "ieee" if x.dtype == torch.float32 else "tf32"
        shape = {
            "H": hidden, "INNER": inner, "BLOCK_M": m, "BLOCK_K": k, "PRECISION": precision, "PDL": self._pdl,
            "num_warps": warps, "num_stages": stages, **self._launch,
        }  # fmt: skip
        expert_gate_up[(limit * triton.cdiv(inner, n),)](
            x, gate_up, active, order, tiles, total, limit, CHOICES=choices, BLOCK_N=n, **shape
        )
        wide = 2 * n  # as wide as the product of gate and up
        expert_down[(limit * triton.cdiv(hidden, wide),)](
            active, down, results, order, tiles, total, limit, BLOCK_N=wide, **shape
        )
        expert_sum[(tokens, triton.cdiv(hidden, 1024))](
            results, weights, out, CHOICES=choices, H=hidden, BLOCK=1024, PDL=self._pdl, num_warps=4,
            **self._launch,
        )  # fmt: skip
        return out


def expert_blocks(
    pairs: int, experts: int, dtype: torch.dtype, shared: int = SHARED_BYTES
) -> tuple[int, int, int, int, int]:
    """Tile of the grouped products → (rows, columns, depth, warps, stages), by how many pairs an expert gets.

    Few pairs: the weights' bytes are the cost, so tiles are short and many are in flight. Many pairs: the
    arithmetic is, so tiles are as large as registers allow. Each is the fastest of seven or eight tried on an
    H200 with 128 experts of 2048 x 768; a device with less shared memory gets fewer stages.
    """
    each = pairs / experts
    if dtype == torch.float32:
        return (16, 32, 32, 4, 2) if each <= 16 else (64, 32, 32, 4, 2)
    if each <= 8:
        m, n, k, warps, stages = 16, 64, 128, 4, 4
    elif each <= 24:
        m, n, k, warps, stages = 32, 64, 128, 4, 3
    elif each <= 192:
        m, n, k, warps, stages = 64, 128, 64, 4, 4
    else:
        m, n, k, warps, stages = 128, 128, 64, 8, 4
    return m, n, k, warps, max(1, min(stages, shared // ((m + 2 * n) * k * dtype.itemsize)))
