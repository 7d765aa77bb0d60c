"""Captures a CUDA graph with nothing else going on.

Used by whoever replays graphs: the engine's decode steps, the measurements of products. While a stream is
captured the device refuses whatever may wait for it, and the refusal ends the capture. Garbage in a cycle is
such: graphs of an engine before this one, which Python finds and frees whenever it likes, here at the latest
moment. So none is collected meanwhile.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def capturing(stream: torch.cuda.Stream, pool: Any = None) -> Iterator[torch.cuda.CUDAGraph]:
    """What is launched inside is in the graph when it ends; `pool` is another graph's memory, to share it."""
    graph = torch.cuda.CUDAGraph()
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            yield graph
    finally:
        if collects:
            gc.enable()
