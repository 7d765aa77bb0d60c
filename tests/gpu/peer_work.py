"""What the ranks do in test_peer_sum; imports nothing slow."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from baton.kernels.capture import capturing
from baton.kernels.triton import TritonKernels
from baton.parallel import TorchRanks

Answer = dict[str, str]
"""What was summed → a digest of the result's bits; ranks must agree on all."""


def digest(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()


def drawn(rank: int, seed: int, count: int, dtype: torch.dtype) -> Tensor:
    """What a rank gives: the same wherever it is drawn, and different for each rank."""
    chance = torch.Generator().manual_seed(1000 * seed + rank)
    return (torch.randn(count, generator=chance) * 3).to(dtype).cuda()


def in_order(parts: list[Tensor]) -> Tensor:
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part.float()
    return total.to(parts[0].dtype)


def each_size(ranks: TorchRanks) -> Answer:
    """Every size by peer memory is the float32 sum in the order of ranks, to the bit, also the third time."""
    assert ranks.peer is not None
    answer = {}
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        unit, most = 16 // dtype.itemsize, ranks.peer.limit // dtype.itemsize
        rows = [5120 * n for n in (1, 2, 3, 7, 16, 64, 100)]
        for count in (unit, 2 * unit, 255 * unit, 257 * unit, *rows, most - unit, most):
            if count > most:
                continue
            parts = [drawn(rank, count, count, dtype) for rank in range(ranks.size)]
            wanted = in_order(parts)
            for _ in range(3):
                x = parts[ranks.rank].clone()
                assert ranks.peer.takes(x)
                found = ranks.sum(x)
                assert found.data_ptr() == x.data_ptr(), "in place"
                assert torch.equal(found, wanted), (dtype, count)
            answer[f"{dtype} {count}"] = digest(found)
    return answer


def odd_ones(ranks: TorchRanks) -> Answer:
    """Strides, places and bits that are unlike others; sizes and types that only the library sums."""
    assert ranks.peer is not None
    answer = {}
    parts = [drawn(rank, 1, 64 * 512, torch.bfloat16).view(64, 512) for rank in range(ranks.size)]
    wanted = in_order(parts)
    views: dict[str, Callable[[Tensor], Tensor]] = {
        "strided": lambda x: x[:, ::2],
        "turned": lambda x: x.t(),
        "unaligned": lambda x: x.view(-1)[1 : 1 + 8 * 100],
    }
    for name, view in views.items():
        found = ranks.sum(view(parts[ranks.rank].clone()))
        assert torch.equal(found, view(wanted)), name
        answer[name] = digest(found)
    for name, one in {
        "no whole unit": drawn(ranks.rank, 2, 5119, torch.bfloat16),
        "float64": drawn(ranks.rank, 2, 512, torch.float64),
        "int64": torch.arange(512, device="cuda") * (ranks.rank + 1),
        "too large": drawn(ranks.rank, 2, ranks.peer.limit // 4 + 4, torch.float32),
    }.items():
        assert not ranks.peer.takes(one), name
        wanted = ranks.sum_by_library(one.clone())
        assert torch.equal(ranks.sum(one.clone()), wanted), name
        answer[name] = digest(wanted)
    answer["bits"] = digest(_bits(ranks))
    return answer


def _bits(ranks: TorchRanks) -> Tensor:
    """Zeros of both signs, infinities, and the very bits by which an empty place is known."""
    patterns = [
        0x00000000,
        0x80000000,
        0x7F800000,
        0xFFFFFFFF,
        0x7FFFFFFF,
        0x00000001,
        0xFF800000,
        0xFFFFFFFE,
    ]
    signed = [bits - (1 << 32) if bits >> 31 else bits for bits in patterns]
    ints = torch.tensor(signed * 64, dtype=torch.int32, device="cuda")
    found = ranks.sum(ints.view(torch.float32).clone()).view(64, 8)
    zero, minus, up, empty, nan, _, down, other = found.unbind(1)
    assert (zero == 0).all() and not zero.signbit().any()
    assert (minus == 0).all() and minus.signbit().all()
    assert (up == torch.inf).all() and (down == -torch.inf).all()
    assert empty.isnan().all() and nan.isnan().all() and other.isnan().all()
    ranks.sum(torch.full((4096,), -1, dtype=torch.int32, device="cuda").view(torch.float32))
    ones = ranks.sum(torch.ones(4096, device="cuda"))
    assert (ones == ranks.size).all(), "NaN have not stayed behind"
    return found


def _captured(make: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        make()
        stream.synchronize()
        with capturing(stream) as graph:
            found = make()
    torch.cuda.current_stream().wait_stream(stream)
    return graph, found


@torch.inference_mode()
def replays(ranks: TorchRanks, count: int) -> Answer:
    """A graph with sums of several sizes, replayed with other inputs, eager sums of other sizes in between.
    All numbers are small integers, so every result is exact."""
    sizes = (8, 5120, 40 * 5120, 16, 64 * 5120, 3 * 5120 + 8)
    chance = torch.Generator().manual_seed(3)
    parts = [
        [torch.randint(-4, 5, (size,), generator=chance).bfloat16().cuda() for _ in range(ranks.size)]
        for size in sizes
    ]
    totals = [torch.stack(each).sum(0) for each in parts]
    factor = torch.ones((), dtype=torch.bfloat16, device="cuda")
    wrong = torch.zeros((), dtype=torch.int64, device="cuda")

    def step() -> list[Tensor]:
        return [ranks.sum(each[ranks.rank] * factor) for each in parts]

    graph, found = _captured(step)
    for turn in range(count):
        factor.fill_(turn % 7 - 3)
        graph.replay()
        for one, total in zip(found, totals, strict=True):
            wrong += (one != total * factor).sum()
        if turn % 5 == 0:
            which = turn // 5 % len(sizes)
            cut = slice(0, max(8, sizes[which] // 16 * 8))
            one = ranks.sum(parts[which][ranks.rank][cut].clone())
            wrong += (one != totals[which][cut]).sum()
    assert int(wrong) == 0, f"{int(wrong)} wrong numbers"
    return {str(size): digest(one) for size, one in zip(sizes, found, strict=True)}


@torch.inference_mode()
def among_kernels(ranks: TorchRanks, layers: int, count: int) -> Answer:
    """Between kernels that begin before the one ahead has ended, as in a decode step: the bits of NCCL's sum,
    which of two ranks is rounded once too."""
    kernels = TritonKernels()
    answer = {}
    for rows in (1, 5, 64):
        weight = drawn(0, rows, 5120, torch.bfloat16).abs()  # the same on all ranks, as a model's is
        wide = torch.empty(rows, 2 * 5120, dtype=torch.bfloat16, device="cuda")

        def stack(
            add_up: Callable[[Tensor], Tensor], wide: Tensor = wide, weight: Tensor = weight
        ) -> list[Tensor]:
            residual = torch.zeros(len(wide), 5120, dtype=wide.dtype, device=wide.device)
            x = residual
            for _ in range(layers):  # what is summed is of like size in each: x has passed a norm
                x = add_up(kernels.silu_mul(wide + x.repeat(1, 2)))
                x, residual = kernels.add_norm(x, residual, weight, 1e-6)
            return [x, residual]

        wide.copy_(drawn(ranks.rank, rows, wide.numel(), torch.bfloat16).view_as(wide))
        ours, found = _captured(lambda: stack(ranks.sum))
        library, wanted = _captured(lambda: stack(ranks.sum_by_library))
        wrong = torch.zeros((), dtype=torch.int64, device="cuda")
        for turn in range(count):
            wide.mul_(-0.75 if turn % 2 else 1.25)
            ours.replay()
            kept = [one.clone() for one in found]
            library.replay()
            for one, other in zip(kept, wanted, strict=True):
                wrong += (one != other).sum()
        assert all(bool(one.isfinite().all()) for one in kept)
        assert int(wrong) == 0, f"{rows} rows: {int(wrong)} numbers differ from NCCL's"
        answer[str(rows)] = digest(kept[0])
    return answer


def chosen(ranks: TorchRanks) -> tuple[str, list[tuple[int, float, float]]]:
    return ranks.all_reduce, [(one.size, one.nccl, one.peer) for one in ranks.timings]


def left_alone(ranks: TorchRanks, over: Path) -> str:
    """Rank 1 takes no part in the sum that rank 0 waits for."""
    if ranks.rank == 1:
        for _ in range(1200):
            if over.exists():
                return ""
            time.sleep(0.05)
        return "rank 0 still waits"
    try:
        ranks.sum(torch.ones(4096, device="cuda"))
        torch.cuda.synchronize()
    except RuntimeError as error:
        return f"ended: {error}"
    finally:
        over.touch()
    return "the sum of one rank was taken for that of two"
