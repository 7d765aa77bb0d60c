"""What the kernels of a step do for seconds on end, with the GPU's power and clock.

    python loadtest/bench_sustained.py [--tokens 16 64 128 256 8192] [--seconds 1.5]

A GPU at its power limit lowers its clock: then what counts is not how fast a kernel is in a burst but how
much energy it takes. Each loop replays a graph of the shape of Qwen3-14B; the mean power includes what an
idle GPU takes. Run it with the repository's `shared` folder on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).parent))

from bench_decode_attention import lay_out

from baton.attention.hopper import HopperDecode
from baton.kernels.capture import capturing
from baton.kernels.triton import TritonKernels

ROWS, DEPTH, WEIGHTS = 34816, 5120, 6
"""The product of gate and up; of so many layers in turn, so that none is found in the L2."""
HEADS, KV_HEADS, HEAD_DIM, LAYERS = 40, 8, 128, 8
CONTEXTS = ((140, 840), (64, 1100), (16, 1500))
"""Sequences and tokens of each."""
WARM_S = 0.5
SETTLE_S = 0.3
"""Left out at the beginning of what is looked at."""
QUERY = "clocks.sm,power.draw.instant"

Samples = list[tuple[float, float, float]]
"""When, MHz, W."""


@contextmanager
def watched() -> Iterator[Samples]:
    """Samples of the first GPU, 50 a second, until the end."""
    found: Samples = []
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", "-lms", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def read() -> None:
            for line in process.stdout or ():
                clock, power = line.split(",")
                found.append((time.monotonic(), float(clock), float(power)))

        threading.Thread(target=read, daemon=True).start()
        try:
            yield found
        finally:
            process.terminate()


def loop(
    samples: Samples, name: str, launch: Callable[[], object], work: float, unit: str, seconds: float
) -> None:
    """`work` of one launch: bytes or operations."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        launch()
        stream.synchronize()
        with capturing(stream) as graph:
            launch()
        until = time.monotonic() + WARM_S
        while time.monotonic() < until:
            graph.replay()
            stream.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began, done = time.monotonic(), 0
        begin.record()
        while time.monotonic() - began < seconds:
            graph.replay()
            done += 1
            if done % 4 == 0:
                stream.synchronize()
        end.record()
        end.synchronize()
    ended = time.monotonic()
    looked = [(clock, power) for at, clock, power in samples if began + SETTLE_S < at < ended]
    clock, power = (statistics.mean(one[i] for one in looked) for i in (0, 1))
    ms = begin.elapsed_time(end) / done
    print(
        f"{name:30s} {ms * 1e3:9.1f} us {work / ms * 1e3:9.3g} {unit}/s {power:5.0f} W {clock:6.0f} MHz "
        f"{power * ms / 1e3:6.3f} J {power * ms / work * 1e9:8.3g} pJ a {unit}",
        flush=True,
    )


@torch.inference_mode()
def measure(samples: Samples, tokens: Sequence[int], seconds: float) -> None:
    memory = torch.empty(4 << 30, dtype=torch.uint8, device="cuda").random_().view(torch.int32)
    loop(samples, "reading 4 GiB", memory.amax, memory.nbytes, "B", seconds)
    del memory
    for count, length in CONTEXTS:
        pages = count * -(-length // 16) + 1
        pool = torch.randn(pages, KV_HEADS, LAYERS, 2, 16, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
        step = lay_out(pool, [length] * count, seed=1)
        attention = HopperDecode(pool, HEADS, KV_HEADS, HEAD_DIM**-0.5, 256)
        q = torch.randn(count, HEADS, HEAD_DIM, device="cuda").bfloat16()

        def attend(attention: HopperDecode = attention, q: torch.Tensor = q, step: object = step) -> None:
            for layer in range(LAYERS):
                attention.decode(q, layer, step.table, step.rows, step.lengths)  # type: ignore[attr-defined]

        loop(samples, f"attention, {count} x {length}", attend, pool.nbytes, "B", seconds)
        del pool, step, attention, attend
    kernels = TritonKernels()
    weights = [(torch.randn(ROWS, DEPTH, device="cuda") * 0.02).bfloat16() for _ in range(WEIGHTS)]
    kernels.prepare(weights, min(256, max(tokens)))
    ways = {"as chosen": lambda x, w: kernels.linear(x, w, None), "cuBLAS": F.linear}
    for count in tokens:
        x = torch.randn(count, DEPTH, device="cuda").bfloat16()
        few = weights if count <= 256 else weights[:2]
        for name, way in ways.items():

            def multiply(
                x: torch.Tensor = x, way: Callable[..., object] = way, few: list[torch.Tensor] = few
            ) -> None:
                for weight in few:
                    way(x, weight)

            work = 2.0 * count * ROWS * DEPTH * len(few)
            loop(samples, f"gate and up, {count} rows, {name}", multiply, work, "FLOP", seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 96, 128, 160, 192, 256, 8192])
    parser.add_argument("--seconds", type=float, default=1.5)
    args = parser.parse_args()
    with watched() as samples:
        measure(samples, args.tokens, args.seconds)


if __name__ == "__main__":
    main()
