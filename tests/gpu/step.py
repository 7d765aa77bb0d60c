"""A decode step with random weights: the kernels together, with the matrix products between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from tests.gpu import reference
from tests.gpu.reference import Shape
from torch import Tensor

from baton.attention.flashinfer import FlashInferAttention
from baton.attention.triton import TritonAttention
from baton.kernels.triton import TritonKernels
from baton.sampling.fused import sample

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Size:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int


SMALL = Size(28, 1024, 16, 8, 3072, 151936)
"""Qwen3-0.6B."""


class Step:
    """One batch of equal lengths; weights are made anew from one seed, so that two steps are comparable."""

    def __init__(self, size: Size, count: int, length: int, pdl: bool, attention: str) -> None:
        chance = torch.Generator("cuda").manual_seed(1)

        def weight(*shape: int) -> Tensor:
            scale = shape[-1] ** -0.5
            return torch.randn(shape, generator=chance, device="cuda", dtype=torch.bfloat16) * scale

        dim, both = 128, size.heads + 2 * size.kv_heads
        self.layers = [
            (
                weight(size.hidden),
                weight(both * dim, size.hidden),
                weight(size.hidden, size.heads * dim),
                weight(size.hidden),
                weight(2 * size.inner, size.hidden),
                weight(size.hidden, size.inner),
            )
            for _ in range(size.layers)
        ]
        self.embedding = weight(size.vocab, size.hidden)
        self.norm, self.heads_norm = weight(size.hidden), (weight(dim), weight(dim))
        shape = Shape(size.heads, size.kv_heads, dim, 16, size.layers)
        self.spans, self.pool = reference.batch([(1, length)] * count, shape, "cuda")
        which = (self.pool, size.heads, size.kv_heads, dim**-0.5)
        owner = {
            "flashinfer": lambda: FlashInferAttention(*which, count, pdl=pdl),
            "triton": lambda: TritonAttention(*which, pdl=pdl),
        }[attention]()
        self.attention = owner.graph(count)
        self.attention.plan(self.spans)
        self.spans = replace(self.spans, host=None)
        self.kernels, self.pdl = TritonKernels(pdl), pdl
        self.cos_sin = reference.rope_table(4096, dim, "cuda")
        self.ids = torch.randint(0, size.vocab, (count,), generator=chance, device="cuda")
        self.temperatures = torch.full((count,), 0.6, device="cuda")
        weights = sum(w.numel() for layer in self.layers for w in layer) + self.embedding.numel()
        cache = count * length * 2 * size.kv_heads * dim * size.layers
        self.bytes = 2 * (weights + cache)

    def run(self) -> Tensor:
        k = self.kernels
        residual = torch.nn.functional.embedding(self.ids, self.embedding)
        x = k.norm(residual, self.layers[0][0], EPS)
        for i, (_, qkv, out, after, gate_up, down) in enumerate(self.layers):
            q = k.rotate_store(x @ qkv.T, self.pool, i, self.spans, self.cos_sin, self.heads_norm, EPS)
            x, residual = k.add_norm(self.attention.attend(q, i, self.spans) @ out.T, residual, after, EPS)
            x = k.silu_mul(x @ gate_up.T) @ down.T
            last = i + 1 == len(self.layers)
            x, residual = k.add_norm(x, residual, self.norm if last else self.layers[i + 1][0], EPS)
        logits = x @ self.embedding.T
        return sample(logits, self.temperatures, self.ids, self.spans.lengths, pdl=self.pdl)
