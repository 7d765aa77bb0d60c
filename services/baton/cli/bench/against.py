"""The same work through other engines, in this process. Each returns the seconds it took."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from baton.cli.bench.work import Work


def _transformers(model: Path, work: Work, args: argparse.Namespace) -> Any:
    """A transformers model with random or loaded weights, as the engine had them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = args.device or "cpu"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.load_format == "dummy":
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).to(dtype)
    else:
        built = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    return built.to(device).eval()


def _generate(model: Any, prompts: list[tuple[int, ...]], outputs: list[int], temperature: float) -> None:
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    count = max(outputs)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with torch.inference_mode():
        model.generate(
            ids, attention_mask=mask, min_new_tokens=count, max_new_tokens=count, pad_token_id=0, **sampling
        )


def _in_batches(size: int) -> Callable[[Path, Work, argparse.Namespace], float]:
    """transformers' generate over batches of this size; every member runs as long as the longest."""

    def run(path: Path, work: Work, args: argparse.Namespace) -> float:
        model = _transformers(path, work, args)
        began = time.perf_counter()
        for some in _batches(len(work.prompts), size):
            _generate(
                model, [work.prompts[i] for i in some], [work.outputs[i] for i in some], args.temperature
            )
        return time.perf_counter() - began

    return run


def _batches(count: int, size: int) -> Iterator[range]:
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


AGAINST: Mapping[str, Callable[[Path, Work, argparse.Namespace], float]] = {
    "transformers": _in_batches(1),
    "transformers-batched": _in_batches(8),
}
"""Name → what runs the work. `transformers` is one prompt at a time; `-batched` eight."""
