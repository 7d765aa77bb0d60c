"""Sums over the ranks of a split model: NCCL against peer memory, microseconds by size.

    python loadtest/bench_all_reduce.py [--ranks 2] [--hidden 5120] [--batches 1 8 16 64 256]

Times are medians of graph replays of 20 sums on the slowest rank: sums alone, and each between the kernels
that are its neighbours in a decode step (product, sum, add with norm), whose own time is taken off. A share
of the time that a sum takes hides behind those.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("shared", "services", ".")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from baton.parallel import TorchRanks  # noqa: E402
from baton.parallel.quickest import LAUNCHES, SIZES, replayed  # noqa: E402
from baton.testing.ranks import run_ranks  # noqa: E402

INNER = 5120
"""Depth of the product ahead of a sum: the out projection's of two ranks, half of that of the down one."""


def alone(ranks: TorchRanks, sizes: list[int]) -> list[tuple[float, float]]:
    """µs of one sum, NCCL and peer memory; nan where a size is too large for the latter."""
    device, found = torch.device("cuda", ranks.rank), []
    for size in sizes:
        fits = ranks.peer is not None and size <= ranks.peer.limit
        peer = replayed(ranks.peer, size, device) if ranks.peer is not None and fits else float("nan")
        found.append((replayed(ranks.sum_by_library, size, device), peer))
    return found


@torch.inference_mode()
def in_place(ranks: TorchRanks, hidden: int, batches: list[int]) -> list[tuple[float, float, float]]:
    """µs of product, sum and add with norm, without the sum, with NCCL's and with peer memory's."""
    from baton.kernels.triton import TritonKernels

    device, found = torch.device("cuda", ranks.rank), []
    kernels = TritonKernels()
    weights = [torch.randn(hidden, INNER, device=device).bfloat16() / 100 for _ in range(LAUNCHES)]
    norm = torch.ones(hidden, device=device).bfloat16()
    kernels.prepare(weights, max(batches))
    for batch in batches:
        x = torch.randn(batch, INNER, device=device).bfloat16()

        def neighbours(add_up: Callable[[Tensor], Tensor], x: Tensor = x) -> Callable[[Tensor], Tensor]:
            residual, turns = torch.zeros(len(x), hidden, device=device).bfloat16(), iter(range(10**9))

            def call(_: Tensor) -> Tensor:
                out = kernels.linear(x, weights[next(turns) % LAUNCHES], None)
                return kernels.add_norm(add_up(out), residual, norm, 1e-6)[0]

            return call

        assert ranks.peer is not None
        ways = (lambda out: out, ranks.sum_by_library, ranks.sum)
        plain, nccl, peer = (replayed(neighbours(way), 16, device) for way in ways)
        found.append((plain, nccl, peer))
    return found


def measure(
    ranks: TorchRanks, sizes: list[int], hidden: int, batches: list[int]
) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]], str]:
    told = ranks.all_reduce
    return alone(ranks, sizes), in_place(ranks, hidden, batches), told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=5120)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64, 128, 256])
    args = parser.parse_args()
    sizes = [*SIZES, 2 * SIZES[-1], 4 * SIZES[-1]]
    with tempfile.TemporaryDirectory() as directory:
        found = run_ranks(
            args.ranks, measure, sizes, args.hidden, args.batches, meeting=Path(directory) / "meeting",
            device="cuda", all_reduce="peer", deadline_s=60.0,
        )  # fmt: skip
    print(f"{args.ranks} ranks, {torch.cuda.get_device_name()}, {found[0][2]}")
    print(f"{'KiB':>8s} {'NCCL us':>9s} {'peer us':>9s} {'GB/s':>7s}")
    for i, size in enumerate(sizes):
        nccl, peer = (max(one[0][i][way] for one in found) for way in (0, 1))
        print(f"{size >> 10:8d} {nccl:9.2f} {peer:9.2f} {size * (args.ranks - 1) / peer / 1e3:7.0f}")
    print(f"\nbetween a product and an add with norm, hidden {args.hidden}: us that the sum adds")
    print(f"{'batch':>8s} {'no sum':>9s} {'NCCL':>9s} {'peer':>9s}")
    for i, batch in enumerate(args.batches):
        plain, nccl, peer = (max(one[1][i][way] for one in found) for way in range(3))
        print(f"{batch:8d} {plain:9.2f} {nccl - plain:9.2f} {peer - plain:9.2f}")


if __name__ == "__main__":
    main()
