"""x [tokens, depth] times weight [rows, depth] transposed, with product.cu: one launch, capturable.

`kernels.products` owns one of each form that it chose and knows when cuBLAS is faster. Launches share scratch
memory, so all of them must be ordered on one stream.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from baton.attention.hopper.compiler import find_nvcc
from baton.attention.hopper.driver import Kernel, TensorMap, describe
from baton.kernels.hopper.forms import Form

_THREADS = 320
_MOST_SHARES = 16  # product.cu
_DEPTH = 64  # of a stage; product.cu


class _Product(ctypes.Structure):
    """product.cu's Product, field by field."""

    _fields_ = [
        ("out", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("parts", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("tokens", ctypes.c_int),
        ("rows", ctypes.c_int),
        ("steps", ctypes.c_int),
        ("tiles", ctypes.c_int),
        ("stride", ctypes.c_int),
        ("shares", ctypes.c_int),
    ]


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where blocks leave sums for each other."""

    parts: Tensor
    left: Tensor
    """int32, all zero between launches; the kernel restores that."""

    @classmethod
    def of(cls, part_bytes: int, device: torch.device) -> Scratch:
        """Enough for forms with parts of so many bytes."""
        blocks = torch.cuda.get_device_properties(device).multi_processor_count
        parts = torch.empty(blocks * part_bytes, dtype=torch.uint8, device=device)
        return cls(parts, torch.zeros(blocks * _MOST_SHARES, dtype=torch.int32, device=device))


class Product:
    """One form on one device. Equal inputs give equal bits."""

    def __init__(self, form: Form, scratch: Scratch, overlap: bool = True) -> None:
        """`overlap`: a launch may begin while the kernel before it ends; it waits before it reads x."""
        device = scratch.parts.device
        blocks = len(scratch.left) // _MOST_SHARES
        assert scratch.parts.numel() >= blocks * form.part_bytes, "scratch for smaller forms"
        self.form = form
        self._scratch = scratch
        self._weights: dict[tuple[int, int, int], TensorMap] = {}
        with torch.cuda.device(device):
            self._kernel = Kernel(
                form.cubin(), "product", blocks, _THREADS, form.shared_bytes, overlap, form.cluster
            )

    @staticmethod
    def supported(weight: Tensor) -> str | None:
        """Why this weight or machine cannot be served, or None."""
        if not weight.is_cuda or torch.cuda.get_device_capability(weight.device) != (9, 0):
            return "the weight is not on a GPU of compute capability 9.0"
        if weight.dtype != torch.bfloat16:
            return f"the weight is {weight.dtype}, not bfloat16"
        rows, depth = weight.shape
        if rows % 16 or depth % _DEPTH or depth < 4 * _DEPTH or not weight.is_contiguous():
            return f"{rows} x {depth} is no whole number of tiles"
        return None if find_nvcc() is not None or Form(16, 128, 1).path().exists() else "nvcc was not found"

    def spreads(self, weight: Tensor) -> tuple[int, ...]:
        """Grids worth trying for a weight: all blocks evenly, or a whole number for each tile."""
        rows, depth = weight.shape
        clusters, tiles = self._kernel.grid // self.form.cluster, self._tiles(rows)
        each = min(_MOST_SHARES, clusters // tiles, depth // _DEPTH)
        found = {clusters, *(tiles * n for n in (each, (each + 1) // 2, 1) if n)}
        return tuple(self.form.cluster * count for count in sorted(found, reverse=True))

    def _tiles(self, rows: int) -> int:
        return -(-rows // (self.form.rows * self.form.cluster))

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, grid: int = 0) -> Tensor:
        """x [tokens, depth] → [tokens, rows] on `grid` blocks; `weight` keeps its address while this object
        lives."""
        form, (rows, depth), tokens = self.form, weight.shape, x.shape[0]
        assert x.is_contiguous() and x.dtype == weight.dtype and x.shape == (tokens, depth)
        assert 0 < tokens <= form.tokens and x.data_ptr() % 16 == 0
        out = torch.empty((tokens, rows), dtype=x.dtype, device=x.device)
        known = (weight.data_ptr(), rows, depth)
        described = self._weights.get(known)
        if described is None:
            described = describe(weight.data_ptr(), (depth, rows), (depth * 2,), (_DEPTH, form.rows))
            self._weights[known] = described
        source = describe(x.data_ptr(), (depth, tokens), (depth * 2,), (_DEPTH, form.tokens // form.cluster))
        tiles = self._tiles(rows)
        shares, uneven = divmod((grid or self._kernel.grid) // form.cluster, tiles)
        product = _Product(
            out=out.data_ptr(), bias=None if bias is None else bias.data_ptr(),
            parts=self._scratch.parts.data_ptr(), left=self._scratch.left.data_ptr(), tokens=tokens,
            rows=rows, steps=depth // _DEPTH, tiles=tiles, stride=rows,
            shares=0 if uneven or shares > min(_MOST_SHARES, depth // _DEPTH) else shares,
        )  # fmt: skip
        with torch.cuda.device(x.device):
            self._kernel.launch(
                torch.cuda.current_stream().cuda_stream, described, source, product, grid=grid
            )
        return out
