"""Every kernel and backend against the reference and against the clock, as one table.

Run it on the GPU host: `python tests/gpu/check.py [section ...]`. Times are medians of CUDA-graph replays
over rotating inputs; `floor` is the bytes that must move at the speed this memory copies, or the arithmetic
at the speed cuBLAS reaches, whichever is longer.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("shared", "services", ".")]

import torch  # noqa: E402
from tests.gpu import reference  # noqa: E402
from tests.gpu.reference import Shape, error  # noqa: E402
from tests.gpu.step import SMALL, Step  # noqa: E402

from baton.attention.flashinfer import FlashInferAttention  # noqa: E402
from baton.attention.triton import TritonAttention  # noqa: E402
from baton.kernels.triton import TritonKernels  # noqa: E402
from baton.sampling.fused import sample  # noqa: E402
from baton.sampling.noise import gumbel  # noqa: E402

BYTES_PER_US = 4.3e6
FLOP_PER_US = 790e6
BF16 = torch.bfloat16
Call = Callable[[], object]


def replayed(calls: list[Call], replays: int = 15) -> float:
    """Median µs of one call."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times) * 1000 / len(calls)


def host_us(call: Call, count: int = 30) -> float:
    """Median µs that the host is busy with one call."""
    times = []
    for _ in range(count):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


def line(name: str, wrong: float | None, micros: float, floor: float, note: str = "") -> None:
    shown = "" if wrong is None else f"{wrong:.1e}"
    print(f"{name:44s} {shown:>8s} {micros:9.1f} {floor:9.1f} {floor / micros:6.2f}  {note}", flush=True)


def random(*size: int) -> torch.Tensor:
    return torch.randn(size, device="cuda").to(BF16)


def rows() -> None:
    """norm, add_norm, silu_mul."""
    for tokens, hidden, inner in ((256, 1024, 3072), (256, 5120, 17408), (4096, 5120, 17408)):
        weight, copies = random(hidden), 8
        xs = [random(tokens, hidden) for _ in range(copies)]
        wides = [random(tokens, 2 * inner) for _ in range(copies)]
        for pdl in (False, True):
            k, tag = TritonKernels(pdl), f" {tokens}x{hidden}{' pdl' if pdl else ''}"
            want = reference.norm(xs[0], weight, 1e-6)
            wrong = error(k.norm(xs[0], weight, 1e-6), want)
            us = replayed([partial(k.norm, x, weight, 1e-6) for x in xs])
            line("norm" + tag, wrong, us, tokens * hidden * 4 / BYTES_PER_US)
            a, b = random(tokens, hidden), random(tokens, hidden)
            total = a + b
            wrong = error(k.add_norm(a, b, weight, 1e-6)[0], reference.norm(total, weight, 1e-6))
            pairs = list(zip(xs, [x.clone() for x in xs], strict=True))
            us = replayed([partial(k.add_norm, *p, weight, 1e-6) for p in pairs])
            line("add_norm" + tag, wrong, us, tokens * hidden * 8 / BYTES_PER_US)
            wrong = error(k.silu_mul(wides[0]), reference.silu_mul(wides[0]))
            us = replayed([partial(k.silu_mul, x) for x in wides])
            line(
                f"silu_mul {tokens}x{inner}{' pdl' if pdl else ''}",
                wrong,
                us,
                tokens * inner * 6 / BYTES_PER_US,
            )
    k, x, weight = TritonKernels(), random(64, 1024), random(1024)
    residual = x.clone()
    launch = host_us(partial(k.add_norm, x, residual, weight, 1e-6), 200)
    print(f"host time of one eager launch: {launch:.1f} µs")


def rotate() -> None:
    """rotate_store."""
    for heads, tokens in ((16, 256), (40, 256), (16, 4096), (40, 4096)):
        shape = Shape(heads, 8, 128, 16, layers=4)
        spans = [(1, 600)] * tokens if tokens == 256 else [(tokens, tokens)]
        batch, pool = reference.batch(spans, shape, "cuda")
        cos_sin = reference.rope_table(8192, 128, "cuda")
        qkvs = [random(tokens, (heads + 16) * 128) for _ in range(8)]
        norms = (random(128), random(128))
        for pdl in (False, True):
            k = TritonKernels(pdl)
            other = pool.clone()
            want = reference.rotate_store(qkvs[0], other, 1, batch, cos_sin, norms, 1e-6)
            got = k.rotate_store(qkvs[0], pool, 1, batch, cos_sin, norms, 1e-6)
            wrong = max(error(got, want), error(pool, other))
            us = replayed(
                [
                    partial(k.rotate_store, x, pool, i % 4, batch, cos_sin, norms, 1e-6)
                    for i, x in enumerate(qkvs)
                ]
            )
            name = f"rotate_store {tokens} tokens, {heads}/8 heads{' pdl' if pdl else ''}"
            line(name, wrong, us, tokens * (heads + 16) * 128 * 4 / BYTES_PER_US)


def experts() -> None:
    """The mixture of Qwen3-30B-A3B: 128 experts, 8 chosen."""
    count, choices, hidden, inner = 128, 8, 2048, 768
    sets = [
        (random(count, 2 * inner, hidden) / hidden**0.5, random(count, hidden, inner) / inner**0.5)
        for _ in range(2)
    ]
    for tokens in (1, 16, 64, 256, 1024, 8192):
        x = random(tokens, hidden)
        weights, chosen = torch.randn(tokens, count, device="cuda").softmax(-1).topk(choices)
        k = TritonKernels(pdl=True)
        wrong = error(
            k.experts(x, *sets[0], weights, chosen), reference.experts(x, *sets[0], weights, chosen)
        )
        us = replayed([partial(k.experts, x, *s, weights, chosen) for s in sets])
        moved = len(chosen.unique()) * 3 * inner * hidden * 2 + tokens * hidden * 4
        flop = tokens * choices * 6 * inner * hidden
        floor = max(moved / BYTES_PER_US, flop / FLOP_PER_US)
        line(f"experts {tokens} tokens", wrong, us, floor, f"{flop / us / 1e6:.0f} TFLOP/s")


def sampling() -> None:
    vocab = 151936
    for count in (1, 16, 64, 256):
        logits = [2 * random(count, vocab) for _ in range(4 if count > 16 else 16)]
        seeds = torch.randint(-(2**62), 2**62, (count,), device="cuda")
        positions = torch.randint(0, 9999, (count,), device="cuda", dtype=torch.int32)
        for temperature in (0.0, 0.6):
            warm = torch.full((count,), temperature, device="cuda")
            got = sample(logits[0], warm, seeds, positions)
            values = logits[0].float()
            if temperature:
                values = values / temperature + gumbel(seeds, positions, vocab)
            gap = values.max(1).values - values.gather(1, got[:, None])[:, 0]
            us = replayed([partial(sample, x, warm, seeds, positions, pdl=True) for x in logits])
            different = int((gap > 0).sum())
            name = f"sample {count} rows, temperature {temperature}"
            line(name, float(gap.max()), us, count * vocab * 2 / BYTES_PER_US, f"{different} tokens differ")


def decode() -> None:
    """One layer's attention in a captured batch: 0.6B's heads."""
    for count, least, most in (
        (256, 600, 606), (256, 200, 1400), (128, 1100, 1106), (64, 1300, 1306), (64, 200, 2400),
        (16, 1500, 1506), (16, 200, 6000), (1, 1000, 1000), (1, 30000, 30000),
    ):  # fmt: skip
        shape = Shape(16, 8, 128, 16, layers=28)
        spread = torch.linspace(least, most, count).round().long()[torch.randperm(count)].tolist()
        batch, pool = reference.batch([(1, length) for length in spread], shape, "cuda")
        q = random(count, 16, 128)
        moved = sum(spread) * 2 * 8 * 128 * 2
        want = reference.attention(q, pool, 3, batch, 128**-0.5)
        for name, owner in (
            ("flashinfer", FlashInferAttention(pool, 16, 8, 128**-0.5, count)),
            ("triton", TritonAttention(pool, 16, 8, 128**-0.5, pdl=True)),
        ):
            graph = owner.graph(count)
            graph.plan(batch)
            full = host_us(partial(owner.plan, batch))
            fast = host_us(partial(graph.plan, batch))
            graph.attend(q, 0, batch)
            wrong = error(graph.attend(q, 3, batch), want)
            us = replayed([partial(graph.attend, q, i, batch) for i in range(28)])
            note = f"{moved / us / 1e6:.2f} TB/s; plan on the host {fast:.0f} us, eager {full:.0f} us"
            line(f"decode {name} {count} x {least}-{most}", wrong, us, moved / BYTES_PER_US, note)


def prefill() -> None:
    """One layer's attention of whole prompts and of a chunk behind a cached prefix: 8B's heads."""
    for spans in ([(8192, 8192)], [(1024, 1024)] * 8, [(2048, 10240)]):
        shape = Shape(32, 8, 128, 16, layers=4)
        batch, pool = reference.batch(spans, shape, "cuda")
        q = random(sum(new for new, _ in spans), 32, 128)
        seen = sum(new * (2 * length - new + 1) // 2 for new, length in spans)
        flop = seen * 32 * 128 * 4
        want = reference.attention(q, pool, 1, batch, 128**-0.5) if len(q) <= 2048 else None
        for name, owner in (
            ("flashinfer", FlashInferAttention(pool, 32, 8, 128**-0.5, 1)),
            ("triton", TritonAttention(pool, 32, 8, 128**-0.5)),
        ):
            owner.plan(batch)
            wrong = None if want is None else error(owner.attend(q, 1, batch), want)
            us = replayed([partial(owner.attend, q, i, batch) for i in range(4)])
            label = f"prefill {name} {len(spans)} x {spans[0][0]} of {spans[0][1]}"
            line(label, wrong, us, flop / FLOP_PER_US, f"{flop / us / 1e6:.0f} TFLOP/s")


def steps() -> None:
    """A whole decode step of the 0.6B shape in one graph."""
    for count, length in ((256, 600), (64, 1300), (16, 1500), (1, 1000)):
        for attention in ("flashinfer", "triton"):
            tokens = []
            for pdl in (False, True):
                step = Step(SMALL, count, length, pdl, attention)
                us = replayed([step.run])
                tokens.append(step.run().clone())
                name = f"step 0.6B {attention} {count} x {length}{' pdl' if pdl else ''}"
                line(name, None, us, step.bytes / BYTES_PER_US)
            assert torch.equal(*tokens), "programmatic launch changed the tokens"


SECTIONS = {f.__name__: f for f in (rows, rotate, experts, sampling, decode, prefill, steps)}


def main() -> None:
    print(f"{'':44s} {'error':>8s} {'us':>9s} {'floor':>9s} {'ratio':>6s}")
    for name in sys.argv[1:] or SECTIONS:
        begun = time.perf_counter()
        with torch.inference_mode():
            torch.manual_seed(0)
            SECTIONS[name]()
        torch.cuda.empty_cache()
        print(f"-- {name}: {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
