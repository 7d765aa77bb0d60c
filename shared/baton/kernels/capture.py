"""Captures a CUDA graph with nothing else going on.

Used by whoever replays graphs: the engine's steps, the measurements of products and of sums. While a
stream is captured the device refuses whatever may wait for it, and the refusal ends the capture. Garbage in a
cycle is such: graphs of an engine before this one, which Python finds and frees whenever it likes. So none is
collected meanwhile.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@contextmanager
def capturing(stream: torch.cuda.Stream, pool: Any = None) -> Iterator[torch.cuda.CUDAGraph]:
    """What is launched inside is in the graph when it ends; `pool` is another graph's memory, to share it.

    `torch.cuda.graph` gives all unused memory back to the driver first, which takes longer than a capture and
    is not worth it for each of hundreds.
    """
    graph = torch.cuda.CUDAGraph()
    collects = gc.isenabled()
    gc.disable()
    try:
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            graph.capture_begin(pool)
            try:
                yield graph
            finally:
                graph.capture_end()
    finally:
        if collects:
            gc.enable()


@dataclass(frozen=True, slots=True)
class Shared:
    """One stream to capture on and one memory for what graphs need inside: sound as long as they are replayed
    one after another and what a graph leaves there is not read after the next one's replay."""

    stream: torch.cuda.Stream
    memory: Any

    def capturing(self) -> AbstractContextManager[torch.cuda.CUDAGraph]:
        return capturing(self.stream, self.memory)


@contextmanager
def sharing() -> Iterator[Shared]:
    """Inside, work goes to a stream of its own, on which graphs may be captured. Memory that is in no graph
    when it ends is given back."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.empty_cache()
    with torch.cuda.stream(stream):
        yield Shared(stream, torch.cuda.graph_pool_handle())
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.empty_cache()


def replay_us(launch: Callable[[], object], device: torch.device, replays: int) -> float:
    """Median µs of a replay of all that `launch` launches, which runs once before it is captured."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    times = []
    with torch.cuda.stream(stream):
        launch()  # loads what a capture may not
        stream.synchronize()
        with capturing(stream) as graph:
            launch()
        graph.replay()
        for _ in range(replays):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
    torch.cuda.current_stream(device).wait_stream(stream)
    return float(statistics.median(times)) * 1000
