"""What one matrix product of prefill does in a burst and for seconds on end, with the GPU's clock and power.

    python loadtest/bench_sustained.py [--tokens 8192 16384] [--seconds 2]

A GPU at its power limit lowers its clock: then a long prefill is slower than any short benchmark says.
"""

from __future__ import annotations

import argparse
import subprocess
import time

import torch
import torch.nn.functional as F

SHAPES = {"gate_up": (34816, 5120), "down": (5120, 17408)}
"""Of Qwen3-14B."""
QUERY = "clocks.sm,power.draw,power.limit,clocks_event_reasons.active"


def rate(x: torch.Tensor, weights: list[torch.Tensor], seconds: float) -> float:
    """TFLOP/s over so many seconds."""
    flop = 2 * x.shape[0] * x.shape[1] * weights[0].shape[0]
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    until, done = time.perf_counter() + seconds, 0
    begin.record()
    while time.perf_counter() < until:
        for weight in weights:
            F.linear(x, weight)
        done += len(weights)
        end.record()
        end.synchronize()
    return done * flop / begin.elapsed_time(end) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    for name, (rows, depth) in SHAPES.items():
        weights = [torch.randn(rows, depth, device="cuda").bfloat16() / depth**0.5 for _ in range(4)]
        for tokens in args.tokens:
            x = torch.randn(tokens, depth, device="cuda").bfloat16()
            for library in ("cublas", "cublaslt"):
                torch.backends.cuda.preferred_blas_library(library)
                rate(x, weights, 0.0)
                time.sleep(0.5)
                burst = rate(x, weights, 0.0)
                watch = subprocess.Popen(
                    ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader", "-lms", "500"],
                    stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                long = rate(x, weights, args.seconds)
                watch.terminate()
                seen = (watch.communicate()[0].strip().splitlines() or ["?"])[-1]
                print(
                    f"{name} {tokens} tokens, {library}: burst {burst:.0f}, {args.seconds:g} s {long:.0f} "
                    f"TFLOP/s; clock, power, limit, reasons: {seen}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
