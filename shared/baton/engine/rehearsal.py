"""How much GPU memory steps need beside weights and pool: the largest ones are carried out once and measured.

`build` calls it before it makes the pool, which then takes what is left. The rehearsal has a small pool of
its own and leaves nothing behind. Every rank rehearses the same steps, since ranks sum up together.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from baton.attention.base import Attention
from baton.core.errors import InvalidSetting
from baton.engine.batch import Batch
from baton.engine.runner import NO_CHANGES, Runner
from baton.model.decoder import Decoder

SPANS = 64
"""Prompts in the rehearsed prefill, at most."""


def step_bytes(
    decoder: Decoder, attend: Callable[[Tensor], Attention], make_pool: Callable[[int], Tensor], *,
    tokens: int, longest: int, page_size: int, max_running: int, graph_max_batch: int,
    graph_max_tokens: int,
) -> int:  # fmt: skip
    """Bytes that stay taken or are taken at the peak of a prefill of `tokens` tokens, in prompts of up to
    `longest`, and of the largest graphs of either kind. `make_pool` gives a pool of so many pages, `attend`
    its attention."""
    device = torch.device("cuda", torch.cuda.current_device())
    _clean()
    before = torch.cuda.mem_get_info(device)[0]
    lengths = [min(longest, tokens - at) for at in range(0, tokens, longest)][: min(SPANS, max_running)]
    pages = -(-max(lengths) // page_size)
    pool = make_pool(1 + pages * len(lengths))
    runner = Runner(
        decoder, attend(pool), pool, max_running=max_running, max_model_len=longest,
        graph_max_batch=graph_max_batch, graph_max_tokens=graph_max_tokens, only_largest=True,
    )  # fmt: skip
    runner.launch(_prefill(lengths, pages)).result()
    torch.cuda.synchronize(device)
    used = before - torch.cuda.mem_get_info(device)[0] - pool.nbytes
    del runner, pool
    _clean()
    return max(0, used)


def _clean() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _prefill(lengths: list[int], pages: int) -> Batch:
    """Prompts of these lengths in rows 1…, each with pages of its own."""
    count = len(lengths)
    rows = np.arange(1, count + 1, dtype=np.int32)
    table = (
        np.repeat(rows, pages), np.tile(np.arange(pages, dtype=np.int32), count),
        np.arange(1, count * pages + 1, dtype=np.int32),
    )  # fmt: skip
    return Batch(
        step=0, fresh=(), table=table, span_rows=rows, span_starts=np.zeros(count, np.int32),
        span_tokens=np.asarray(lengths, np.int32), span_samples=np.ones(count, np.bool_),
        following=(None,) * count, ids=np.zeros(sum(lengths), np.int32), decode_rows=NO_CHANGES[0],
        decode_positions=NO_CHANGES[0],
    )  # fmt: skip


@contextmanager
def enough_memory_for(what: str, setting: str, advice: str) -> Iterator[None]:
    """Say which setting to change when the GPU's memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        short = str(error).split(". ")[0]
        told = f"the GPU has too little memory for {what}: {advice} ({short})"
        raise InvalidSetting(setting, told) from error
