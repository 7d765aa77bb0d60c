"""The same work through other engines, in this process, for `baton bench offline --against`.

Fair means: the engine's own dtype, device and number of threads; nothing stops a sequence early; no
tokens are counted that nobody asked for; and what is loaded once and warmed up once is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from baton.cli.bench.work import Work
from baton.core.cores import usable
from baton.core.types import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 8
"""Prompts that `transformers-batched` runs together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the other engine must do as the engine does it."""

    model: str
    dummy: bool
    """Random weights from config.json alone."""
    device: str
    dtype: str
    threads: int
    """0 is one for each core that may be used."""
    sampling: SamplingParams


class Rival(Protocol):
    def run(self, work: Work) -> float:
        """The seconds that this work takes, every prompt answered with its own number of tokens."""
        ...


class Transformers:
    """Hugging Face transformers' generate, over batches of a fixed size, in the order of the prompts."""

    def __init__(self, setup: Setup, batch: int) -> None:
        import torch

        self._batch = batch
        self._model = _model(setup, getattr(torch, setup.dtype))
        self._sampling = _sampling(setup.sampling)
        # Work for as many prompts as a batch has: what is made at a first call is made before the clock runs.
        self.run(Work(((1,) * 16,) * batch, (4,) * batch))

    def run(self, work: Work) -> float:
        began = time.perf_counter()
        for some in _batches(len(work.prompts), self._batch):
            self._generate([work.prompts[i] for i in some], max(work.outputs[i] for i in some))
        return time.perf_counter() - began

    def _generate(self, prompts: list[tuple[int, ...]], count: int) -> None:
        """`count` tokens for each prompt: a batch runs as long as its longest member."""
        import torch

        longest = max(map(len, prompts))
        device = self._model.device
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        with torch.inference_mode():
            made: Tensor = self._model.generate(
                ids, attention_mask=mask, max_new_tokens=count, pad_token_id=0, **self._sampling
            )
        assert made.shape == (len(prompts), longest + count), f"{made.shape[1] - longest} tokens, not {count}"


def _model(setup: Setup, dtype: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if setup.device == "cpu":
        torch.set_num_threads(setup.threads or usable())
    if setup.dummy:
        made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(Path(setup.model)), dtype=dtype)
    else:
        made = AutoModelForCausalLM.from_pretrained(setup.model, dtype=dtype)
    made.generation_config.eos_token_id = None  # nothing ends before its length
    return made.to(setup.device).eval()


def _sampling(asked: SamplingParams) -> dict[str, object]:
    """As the engine samples: without the top-50 cut that transformers adds."""
    if asked.greedy:
        return {"do_sample": False}
    filters = {"top_k": max(0, asked.top_k), "top_p": asked.top_p, "min_p": asked.min_p or None}
    return {"do_sample": True, "temperature": asked.temperature, **filters}


def _batches(count: int, size: int) -> Iterator[range]:
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


AGAINST: Mapping[str, Callable[[Setup], Rival]] = {
    "transformers": lambda setup: Transformers(setup, 1),
    "transformers-batched": lambda setup: Transformers(setup, BATCH),
}
"""Name → what runs the work: transformers one prompt at a time, or eight together."""
