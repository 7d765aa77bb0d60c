"""Checks and times the Hopper decode attention on one GPU.

    python loadtest/bench_decode_attention.py [check] [time] [mixed] [sweep] [quick] [fp8]

`check` compares with float32 on random data over ratios, head dims, page sizes, windows and lengths; stale
slots and unused pages hold NaN, outputs are poisoned, and every run is repeated and must give equal bits.
`time` measures the shapes of loadtest/results/decode-attention.md under a CUDA graph, all layers of a model,
beside FlashInfer where it can be imported. `mixed` times steps that hold decodes and tokens of prompts, a
line each and reading together. `sweep` times other tunings, `fp8` a pool of eight bits. Run it with the
repository's `shared` folder on PYTHONPATH.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from baton.attention.base import UNSCALED, Scales
from baton.attention.hopper import HopperDecode, Tuning
from baton.attention.hopper.decode import default_tuning
from baton.engine.graphs import Held


@dataclass(frozen=True)
class Model:
    name: str
    heads: int
    kv_heads: int
    layers: int
    head_dim: int = 128


MODELS = (Model("Qwen3-0.6B", 16, 8, 28), Model("Qwen3-14B", 40, 8, 40))
SHAPES: dict[str, Sequence[int]] = {
    "256 x 600": [600] * 256,
    "256 x 200-1400": [200 + round(1200 * i / 255) for i in range(256)],
    "128 x 1100": [1100] * 128,
    "64 x 1300": [1300] * 64,
    "16 x 1500": [1500] * 16,
    "9 x 1500, 7 pads": [1500] * 9 + [1] * 7,
    "1 x 1000": [1000],
}
TUNINGS = (
    Tuning(stages=3),
    Tuning(warps=6),
    Tuning(overhead=2),
    Tuning(least=4),
    Tuning(together=0),
    Tuning(together=100),
    Tuning(overhead_together=4),
)


MIXED: dict[str, tuple[Sequence[int], Sequence[tuple[int, int]]]] = {
    "256 x 600": ([600] * 256, []),
    "104 x 737": ([737] * 104, []),
    "and tokens 0 to 152": ([737] * 104, [(0, 152)]),
    "and tokens 224 to 376": ([737] * 104, [(224, 376)]),
    "150 x 900, 0 to 106": ([900] * 150, [(0, 106)]),
    "190 x 1000, 500 to 566": ([1000] * 190, [(500, 566)]),
    "tokens 700 to 956": ([], [(700, 956)]),
}
"""Lengths of decodes, and of each prompt which tokens are computed."""


@dataclass
class Step:
    """Device tensors of one decode step over a pool."""

    pool: Tensor
    table: Tensor
    rows: Tensor
    lengths: Tensor


def lay_out(pool: Tensor, lengths: Sequence[int], seed: int) -> Step:
    """Sequences over scattered pages, their rows shuffled; page 0 stays scratch."""
    page_size = pool.shape[4]
    needed = [-(-n // page_size) for n in lengths]
    draw = random.Random(seed)
    pages = draw.sample(range(1, pool.shape[0]), sum(needed))
    table = torch.zeros(len(lengths) + 3, max(1, *needed) + 2, dtype=torch.int32)
    rows = draw.sample(range(len(lengths) + 3), len(lengths))
    for row, count in zip(rows, needed, strict=True):
        table[row, :count] = torch.tensor(pages[:count], dtype=torch.int32)
        del pages[:count]
    made = (table, torch.tensor(rows, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32))
    return Step(pool, *(t.cuda() for t in made))


def poison(step: Step) -> None:
    """NaN wherever no sequence has a token."""
    pages, page_size = step.pool.shape[0], step.pool.shape[4]
    held = torch.zeros(pages, dtype=torch.int64, device="cuda")
    columns = torch.arange(step.table.shape[1], device="cuda") * page_size
    for row, length in zip(step.rows.tolist(), step.lengths.tolist(), strict=True):
        count = -(-length // page_size)
        held[step.table[row, :count].long()] = (length - columns[:count]).clamp(0, page_size)
    stale = torch.arange(page_size, device="cuda") >= held[:, None]
    raw, nothing = step.pool, float("nan")
    if raw.itemsize == 1:
        raw, nothing = raw.view(torch.uint8), 0x7F  # no number of e4m3's
    raw.masked_fill_(stale[:, None, None, None, :, None], nothing)


def reference(
    q: Tensor, layer: int, step: Step, scale: float, window: int | None, scales: Scales = UNSCALED
) -> Tensor:
    """Float32 attention, one sequence at a time."""
    pool = step.pool[:, :, layer].float()
    batch, heads, dim = q.shape
    kv_heads, page_size = step.pool.shape[1], step.pool.shape[4]
    out = torch.zeros(batch, heads, dim, device="cuda")
    for i, (row, length) in enumerate(zip(step.rows.tolist(), step.lengths.tolist(), strict=True)):
        if length == 0:
            continue
        pages = step.table[row, : -(-length // page_size)].long()
        kv = pool[pages].permute(2, 1, 0, 3, 4).reshape(2, kv_heads, -1, dim)
        kv = kv * torch.tensor([scales.k, scales.v], device="cuda").view(2, 1, 1, 1)
        oldest = max(0, length - window) if window else 0
        k, v = kv[:, :, oldest:length].repeat_interleave(heads // kv_heads, 1)
        weights = torch.softmax(torch.einsum("hd,hkd->hk", q[i].float(), k) * scale, -1)
        out[i] = torch.einsum("hk,hkd->hd", weights, v)
    return out.reshape(batch, -1)


def length_sets(quick: bool) -> dict[str, list[int]]:
    draw = random.Random(5)
    sets = {
        "borders": [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129],
        "one of 1": [1],
        "one of 3001": [3001],
        "one giant, many tiny": [6000] + [draw.randint(1, 20) for _ in range(100)],
        "padding": [700, 0, 33, 0, 0, 1, 1, 1, 0],
        "256 ragged": [draw.randint(1, 400) for _ in range(256)],
    }
    if not quick:
        sets |= {
            "one of 64": [64],
            "all empty": [0, 0],
            "7 mixed": [draw.randint(1, 4000) for _ in range(7)],
            "1000 tiny": [draw.randint(0, 40) for _ in range(1000)],
            "64 equal": [512] * 64,
        }
    return sets


def check_one(
    name: str,
    lengths: list[int],
    kv_heads: int,
    group: int,
    dim: int,
    page_size: int,
    window: int | None,
    together: int,
    dtype: torch.dtype = torch.bfloat16,
) -> float:
    """Largest relative error of a row; raises on NaN, an unwritten output or runs that differ."""
    layers, layer, scale = 3, 1, dim**-0.5
    pages = sum(-(-n // page_size) for n in lengths) + 5
    pool = torch.randn(pages, kv_heads, layers, 2, page_size, dim, device="cuda").to(dtype)
    scales = [Scales(), Scales(0.5, 3.0) if dtype.itemsize == 1 else Scales(), Scales()]
    step = lay_out(pool, lengths, seed=len(lengths))
    poison(step)
    heads = kv_heads * group
    qkv = torch.randn(len(lengths), heads + 2 * kv_heads, dim, device="cuda").bfloat16() * 2
    q = qkv[:, :heads]
    tuning = replace(default_tuning(dim, dtype.itemsize), together=together)
    attention = HopperDecode(
        pool, heads, kv_heads, scale, max(len(lengths), 8), window, tuning, scales=scales
    )
    results = []
    for _ in range(6):
        out = torch.full((len(lengths), heads * dim), float("nan"), device="cuda", dtype=torch.bfloat16)
        results.append(attention.decode(q, layer, step.table, step.rows, step.lengths, out))
    torch.cuda.synchronize()
    what = (
        f"{name} kv_heads {kv_heads} group {group} dim {dim} page {page_size} window {window} team {together}"
        f" {dtype}"
    )
    assert not results[0].isnan().any(), f"NaN: {what}"
    assert all(torch.equal(r, results[0]) for r in results), f"runs differ: {what}"
    assert (attention._parts == -1).all(), f"parts left: {what}"
    wanted = reference(q, layer, step, scale, window, scales[layer])
    difference = (results[0].float() - wanted).view(-1, dim).norm(dim=-1)
    error = (difference / wanted.view(-1, dim).norm(dim=-1).clamp_min(1e-6)).max().item()
    assert error < 2e-2, f"relative error {error:.4f}: {what}"
    return error


def check(quick: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ratios = (1, 2, 5, 8, 16) if quick else (1, 2, 3, 4, 5, 6, 7, 8, 10, 16)
    shapes = [(4, group, dim, 16, None) for dim in (128, 64) for group in ratios]
    shapes += [
        (2, 2, 128, 32, None),
        (1, 5, 64, 64, None),
        (3, 2, 128, 16, 100),
        (8, 8, 128, 48, 1),
        (5, 1, 64, 16, 16),
        (1, 5, 128, 16, 129),
    ]
    worst, count = 0.0, 0
    for kv_heads, group, dim, page_size, window in shapes:
        few = quick or (kv_heads == 4 and group not in (2, 5))
        for name, lengths in length_sets(few).items():
            for together in (0, 1000):
                error = check_one(name, lengths, kv_heads, group, dim, page_size, window, together, dtype)
                worst, count = max(worst, error), count + 1
    print(f"check: {count} cases right, worst relative error of a head's output {worst:.5f}", flush=True)


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Milliseconds of one replay of `run` captured as a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def time_own(model: Model, step: Step, q: Tensor, tuning: Tuning | None, overlap: bool) -> float:
    attention = HopperDecode(
        step.pool,
        model.heads,
        model.kv_heads,
        model.head_dim**-0.5,
        max_batch=len(q),
        tuning=tuning,
        overlap=overlap,
    )
    out = torch.empty(len(q), model.heads * model.head_dim, device="cuda", dtype=torch.bfloat16)

    def run() -> None:
        for layer in range(model.layers):
            attention.decode(q, layer, step.table, step.rows, step.lengths, out)

    return median_ms(run, 9)


def time_flashinfer(model: Model, step: Step, q: Tensor) -> float | None:
    try:
        import flashinfer
    except ImportError:
        return None
    page_size = step.pool.shape[4]
    needed = (step.lengths.cpu() + page_size - 1) // page_size
    indptr = torch.zeros(len(q) + 1, dtype=torch.int32)
    indptr[1:] = needed.cumsum(0)
    picked = [
        step.table[row, :count].cpu() for row, count in zip(step.rows.tolist(), needed.tolist(), strict=True)
    ]
    indices = torch.cat(picked).cuda()
    last = ((step.lengths.cpu() - 1) % page_size + 1).int()
    workspace = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace,
        "HND",
        use_cuda_graph=True,
        use_tensor_cores=True,
        paged_kv_indptr_buffer=torch.zeros(len(q) + 1, dtype=torch.int32, device="cuda"),
        paged_kv_indices_buffer=torch.zeros(len(indices), dtype=torch.int32, device="cuda"),
        paged_kv_last_page_len_buffer=torch.zeros(len(q), dtype=torch.int32, device="cuda"),
    )
    kinds = {"q_data_type": torch.bfloat16, "kv_data_type": step.pool.dtype}
    wrapper.plan(indptr, indices, last, model.heads, model.kv_heads, model.head_dim, page_size, **kinds)

    def run() -> None:
        for layer in range(model.layers):
            wrapper.run(q, (step.pool[:, :, layer, 0], step.pool[:, :, layer, 1]))

    return median_ms(run, 9)


def time_mixed(
    model: Model, pool: Tensor, decodes: Sequence[int], prompts: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """Milliseconds of all layers: each token a line of its own, and those of a prompt reading together."""
    new = [end - begin for begin, end in prompts] + [1] * len(decodes)
    lengths = [end for _, end in prompts] + list(decodes)
    size = -(-sum(new) // 32) * 32
    step = lay_out(pool, [1, *lengths], seed=1)  # the first is what padding reads
    step.table = torch.cat([step.table[step.rows[:1].long()], step.table])
    rows = (step.rows[1:] + 1).tolist()
    whole = HopperDecode(pool, model.heads, model.kv_heads, model.head_dim**-0.5, max_batch=size)
    together = whole.graph_spans(size)
    assert together is not None
    q = torch.randn(size, model.heads, model.head_dim, device="cuda").bfloat16()
    out = torch.empty(size, model.heads * model.head_dim, device="cuda", dtype=torch.bfloat16)
    held = Held(*(np.array(x, np.int32) for x in (rows, new, lengths)))
    took = {}
    for name, attention in (("a line each", whole), ("together", together)):
        whose, ends, starts = (torch.from_numpy(x).cuda() for x in held.pieces(attention.lines, size))
        begins = None if attention.lines == 1 else starts

        def run() -> None:
            for layer in range(model.layers):
                attention.decode(q, layer, step.table, whose, ends, out, begins)  # noqa: B023

        took[name] = median_ms(run, 9)
    return took


def measure_mixed(models: Sequence[Model]) -> None:
    for model in models:
        shape = (16_000, model.kv_heads, model.layers, 2, 16, model.head_dim)
        pool = torch.empty(shape, device="cuda", dtype=torch.bfloat16).normal_()
        for name, (decodes, prompts) in MIXED.items():
            took = time_mixed(model, pool, decodes, prompts)
            said = "  ".join(f"{way} {ms * 1e3 / model.layers:7.1f} us" for way, ms in took.items())
            print(f"{model.name:11} {name:24} {said}", flush=True)
        del pool
        torch.cuda.empty_cache()


def show(model: Model, name: str, step: Step, label: str, ms: float | None) -> None:
    if ms is None:
        return
    read = int(step.lengths.sum()) * model.kv_heads * 2 * model.head_dim * model.layers * step.pool.itemsize
    each = ms * 1e3 / model.layers
    print(
        f"{model.name:11} {name:16} {label:40} {ms:7.3f} ms  {each:7.2f} us  {read / ms / 1e9:5.2f} TB/s",
        flush=True,
    )


def describe(tuning: Tuning) -> str:
    sizes = f"{tuning.warps} x {tuning.stages} overhead {tuning.overhead}"
    return f"{sizes} least {tuning.least} together {tuning.together}/{tuning.overhead_together}"


def measure(sweep: bool, models: Sequence[Model], dtype: torch.dtype) -> None:
    for model in models:
        pages = max(sum(-(-n // 16) for n in lengths) for lengths in SHAPES.values()) + 64
        pool = torch.empty(
            pages, model.kv_heads, model.layers, 2, 16, model.head_dim, device="cuda", dtype=torch.bfloat16
        ).normal_()
        pool = pool.to(dtype)
        for name, lengths in SHAPES.items():
            step = lay_out(pool, lengths, seed=1)
            q = torch.randn(len(lengths), model.heads, model.head_dim, device="cuda").bfloat16()
            show(model, name, step, "own", time_own(model, step, q, None, True))
            show(model, name, step, "own, launches not overlapping", time_own(model, step, q, None, False))
            if not sweep:
                show(model, name, step, "FlashInfer", time_flashinfer(model, step, q))
            for tuning in TUNINGS if sweep else ():
                show(model, name, step, describe(tuning), time_own(model, step, q, tuning, True))
        del pool, step
        torch.cuda.empty_cache()


def main() -> None:
    words = set(sys.argv[1:])
    dtype = torch.float8_e4m3fn if "fp8" in words else torch.bfloat16
    words = words if words - {"fp8", "quick"} else words | {"check", "time"}
    print(torch.cuda.get_device_name(), torch.__version__, "CUDA", torch.version.cuda, flush=True)
    if "check" in words:
        check("quick" in words, dtype)
    if "mixed" in words:
        measure_mixed(MODELS[:1] if "quick" in words else MODELS)
    if words & {"time", "sweep"}:
        measure("sweep" in words, MODELS[:1] if "quick" in words else MODELS, dtype)


if __name__ == "__main__":
    main()
