"""What a step's sampling costs, by what its requests ask for.

    python loadtest/bench_sampling.py [--device cuda] [--rows 1,64,256] [--vocab 151936] [--spread 3]

Logits as a model's head leaves them: most tokens far below a few. `--spread` is their standard deviation; at
1 and a temperature of 1 filters leave thousands of tokens, at 4 a few. On a GPU graphs draw by temperature
and filters, and that is no part of what the other rows tell. On a CPU, whose figures hold as ratios alone, it
is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from baton.core.types import SamplingParams
from baton.sampling.drawing import ByDefinition, Drawing, drawing
from baton.sampling.fresh import Fresh
from baton.sampling.masks import Masks
from baton.sampling.places import Places
from baton.sampling.rows import SamplingRows
from baton.sampling.sampler import Sampler

CASES: dict[str, dict[str, object]] = {
    "plain": {"temperature": 0.6},
    "top_k 20, top_p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "min_p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "penalties": {"temperature": 0.6, "presence_penalty": 0.5},
    "log-probabilities": {"temperature": 0.6, "logprobs": 5},
    "a form": {"temperature": 0.6},
}
BEHIND = ("penalties", "log-probabilities", "a form")
"""What is done behind a graph that has drawn already."""
TURNS = 20


class Bench:
    def __init__(self, logits: torch.Tensor, known: bool) -> None:
        self.logits = logits
        self.known = known
        """Whether a graph has drawn for all rows."""
        count = len(logits)
        self.rows = SamplingRows(count, logits.shape[1], logits.device)
        numbers, at = np.arange(count, dtype=np.int32), np.full(count, 300, dtype=np.int32)
        self.places = Places(
            torch.from_numpy(numbers).to(logits.device), torch.from_numpy(at).to(logits.device), numbers, at
        )
        chance = np.random.default_rng(1)
        self.bits = chance.integers(0, 256, (count, -(-logits.shape[1] // 32) * 4), dtype=np.uint8)

    def take(self, some: int, way: dict[str, object]) -> None:
        """So many rows ask for it, the rest for nothing."""
        tokens = np.arange(300, dtype=np.int32)
        asked = [way] * some + [CASES["plain"]] * (len(self.logits) - some)
        fresh = [
            Fresh(row, SamplingParams(seed=row, **one), (), 100, tokens, -1)  # type: ignore[arg-type]
            for row, one in enumerate(asked)
        ]
        self.rows.take(tuple(fresh))

    def took(self, name: str, some: int, draws: Drawing) -> float:
        """Milliseconds of a step, on the median."""
        self.take(some, CASES[name])
        sampler = Sampler(self.rows, draws)
        masks = Masks(np.arange(some, dtype=np.int32), self.bits[:some]) if name == "a form" else None
        drawn = None
        if self.known and name in BEHIND:
            drawn = torch.zeros(len(self.logits), dtype=torch.int64, device=self.logits.device)
        return _timed(lambda: sampler.sample(self.logits, self.places, masks, drawn), self.logits.device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    took = []
    turns = TURNS if device.type == "cuda" else 3
    for turn in range(turns + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= 2:  # compiled, and memory taken
            took.append(1e3 * (time.perf_counter() - began))
    return statistics.median(took)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", default="1,64,256")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--spread", type=float, default=3.0)
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda":
        torch.set_num_threads(1)  # as engines do
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    print(f"{'ms a step':24}{'rows':>6}{'of them':>9}{'served':>10}{'defined':>10}")
    for count in map(int, asked.rows.split(",")):
        chance = torch.Generator(device).manual_seed(count)
        logits = asked.spread * torch.randn(count, asked.vocab, generator=chance, device=device)
        bench = Bench(logits.to(dtype), device.type == "cuda")
        for name in CASES:
            for some in sorted({1, count}):
                served = bench.took(name, some, drawing(bench.rows))
                defined = bench.took(name, some, ByDefinition(bench.rows))
                print(f"{name:24}{count:6}{some:9}{served:10.3f}{defined:10.3f}", flush=True)


if __name__ == "__main__":
    main()
