"""Ranks over torch.distributed: Gloo between CPU processes, NCCL between GPUs, one process a rank.

Made first thing in each rank's process by `parallel.join_ranks`, closed last. torch keeps the process
group for the whole process, so a process makes one of these. Every wait has a deadline. The collectives
may be captured in a CUDA graph once each has run outside of one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, Store, TCPStore

from baton.core.errors import DeadlineExceeded, InvalidSetting, WorkerDied

# torch 2.13 renamed it, and warns of the old name.
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class TorchRanks:
    """`baton.parallel.base.Ranks` over one process group."""

    def __init__(
        self,
        rank: int,
        size: int,
        rendezvous: str,
        device: torch.device,
        *,
        join_deadline_s: float = 120.0,
        deadline_s: float = 60.0,
    ) -> None:
        """Wait for the other ranks at `rendezvous`: `tcp://host:port`, where rank 0 listens, or
        `file:///path` of a file that does not exist yet and all can write. Raises DeadlineExceeded when
        not all have come within `join_deadline_s`. `deadline_s` is for each collective: on a CPU it ends
        in WorkerDied; on a GPU, where nothing waits for a collective, NCCL's watchdog ends the process."""
        if not 0 <= rank < size:
            raise InvalidSetting("rank", f"{rank} is not one of {size} ranks")
        self.rank = rank
        self.size = size
        try:
            store = _meeting_place(rendezvous, rank, size, timedelta(seconds=join_deadline_s))
            on_gpu = device.type == "cuda"
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=store,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=deadline_s),
                device_id=device if on_gpu else None,
            )
        except RuntimeError as error:
            raise DeadlineExceeded(
                f"rank {rank} of {size} did not meet the others at {rendezvous}"
                f" within {join_deadline_s:g} s: {error}"
            ) from error

    def sum(self, x: Tensor) -> Tensor:
        self._together("sum", lambda: dist.all_reduce(x))
        return x

    def join(self, x: Tensor) -> Tensor:
        rows, width = x.shape
        parts = x.new_empty(self.size, rows, width)
        x = x.contiguous()
        self._together("join", lambda: _gather(parts.view(-1, width), x))
        return parts.transpose(0, 1).reshape(rows, self.size * width)

    def share(self, x: Tensor) -> Tensor:
        self._together("share", lambda: dist.broadcast(x, src=0))
        return x

    def close(self) -> None:
        """Leave the group; harmless when done twice. Graphs that captured a collective must be gone."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _together(self, what: str, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise WorkerDied(
                f"rank {self.rank} of {self.size}: {what} did not complete, another rank is gone or stuck:"
                f" {error}"
            ) from error


def _meeting_place(rendezvous: str, rank: int, size: int, deadline: timedelta) -> Store:
    """The store through which the ranks find each other, once all of them are there."""
    url = urlsplit(rendezvous)
    store: Store
    if url.scheme == "file" and url.path:
        store = FileStore(url.path, size)
    elif url.scheme == "tcp" and url.hostname and url.port:
        store = TCPStore(url.hostname, url.port, size, is_master=rank == 0, timeout=deadline)
    else:
        raise InvalidSetting("rendezvous", f"must be tcp://host:port or file:///path, not {rendezvous!r}")
    store.set(f"here/{rank}", "")
    store.wait([f"here/{other}" for other in range(size)], deadline)
    return store
