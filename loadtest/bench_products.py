"""Baton's matrix products for few rows against cuBLAS: error and time for each shape, count and tile.

    python loadtest/bench_products.py [--model qwen3-14b] [--tokens 16 64 128 256]

Times are medians of graph replays over distinct weights, each product behind the small kernel that comes
before it in a decode step, whose own time is in them. TB/s counts the weight alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("shared", "services", ".")]

import torch  # noqa: E402

from baton.kernels.hopper.forms import TOKENS, compile_all, forms, padded  # noqa: E402
from baton.kernels.products import Products  # noqa: E402
from baton.kernels.triton import TritonKernels  # noqa: E402

DISTINCT_BYTES = 2 << 30
"""Of weights of one shape: many times the L2."""


def shapes(model: str, ranks: int) -> dict[str, tuple[int, int]]:
    config = json.loads((ROOT / "loadtest/shapes" / model / "config.json").read_text())
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    return {
        "qkv": ((heads + 2 * kv_heads) * dim // ranks, hidden),
        "out": (hidden, heads * dim // ranks),
        "gate_up": (2 * inner // ranks, hidden),
        "down": (hidden, inner // ranks),
        "head": (-(-config["vocab_size"] // ranks), hidden),
    }


def check(products: Products, weight: torch.Tensor, count: int) -> None:
    """Every form against float64: full and ragged counts, with and without a bias; the same bits again."""
    few = weight[: min(len(weight), 4096 + 128)].contiguous()
    for tokens in {count, max(1, count - 7)}:
        x = torch.randn(tokens, weight.shape[1], device="cuda").bfloat16()
        bias = torch.randn(len(few), device="cuda").bfloat16()
        for form in forms(count):
            product = products._load(form)
            for b, grid in ((None, 0), *((bias, grid) for grid in product.spreads(few))):
                want = x.double() @ few.double().T + (0 if b is None else b.double())
                got = [product(x, few, b, grid).clone() for _ in range(3)]
                error = float((got[0].double() - want).norm() / want.norm())
                same = all(torch.equal(got[0], one) for one in got[1:])
                if not error < 4e-3 or not same:
                    print(
                        f"  WRONG {form} {tuple(few.shape)} tokens {tokens}: {error:.1e}, same {same}",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen3-14b")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--ranks", type=int, default=1)
    args = parser.parse_args()
    kernels = TritonKernels()
    products = Products(torch.device("cuda"), True, kernels.silu_mul)
    counts = [padded(n) for n in args.tokens]
    compile_all(form for count in counts for form in forms(count))
    total: dict[int, list[float]] = {}
    for name, (rows, depth) in shapes(args.model, args.ranks).items():
        copies = max(1, min(12, DISTINCT_BYTES // (rows * depth * 2)))
        weights = [torch.randn(rows, depth, device="cuda").bfloat16() / depth**0.5 for _ in range(copies)]
        for count in counts:
            check(products, weights[0], count)
            took = products.tried(weights, count)
            plain = took.pop(None)
            total.setdefault(count, []).append(plain - min(plain, *took.values()))
            said = [f"cuBLAS {plain:6.1f} us {rows * depth * 2 / plain / 1e6:4.2f} TB/s"]
            for (height, cluster, grid), us in took.items():
                said.append(f"{height}x{cluster}/{grid} {us:.1f} {rows * depth * 2 / us / 1e6:.2f}")
            print(f"{name:8s} {rows:6d} x {depth:5d}, {count:3d} tokens: {'  '.join(said)}", flush=True)
        del weights
    for count, saved in total.items():
        print(f"{count} tokens: {sum(saved[:-1]):.1f} us a layer saved by the best of each shape")


if __name__ == "__main__":
    main()
