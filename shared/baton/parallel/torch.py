"""Ranks over torch.distributed: Gloo between CPU processes, NCCL between GPUs, one process a rank.

Made first thing in each rank's process by `parallel.join_ranks`, closed last. torch keeps the process
group for the whole process, so a process makes one of these. Every wait has a deadline. The collectives
may be captured in a CUDA graph once each has run outside of one. Small sums on GPUs go through the GPUs'
own memory (`peer`) as far as that was measured to be faster.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import astuple
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, Store, TCPStore

from baton.core.errors import DeadlineExceeded, InvalidSetting, WorkerDied
from baton.parallel.quickest import SIZES, Timing, faster_up_to, replayed, slowest

if TYPE_CHECKING:  # needs what only a GPU's process needs
    from baton.parallel.peer import PeerSum

log = logging.getLogger("baton.parallel")

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
        all_reduce: str = "auto",
    ) -> None:
        """Wait for the other ranks at `rendezvous`: `tcp://host:port`, where rank 0 listens, or
        `file:///path` of a file that does not exist yet and all can write. Raises DeadlineExceeded when
        not all have come within `join_deadline_s`. `deadline_s` is for each collective: on a CPU it ends
        in WorkerDied; on a GPU, where nothing waits for a collective, NCCL's watchdog ends the process, or
        the peer sum's kernel ends itself, which the next look at the device finds. `all_reduce`: which way
        small sums go between GPUs (`EngineConfig.all_reduce`); the same on all ranks. Raises InvalidSetting
        when they are to go through peer memory and cannot."""
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
        self.peer: PeerSum | None = None
        """Present where small sums go through the GPUs' own memory."""
        self.timings: tuple[Timing, ...] = ()
        """Of all ranks together, where both ways were timed."""
        self._peer_bytes = 0
        self.exchange = partial(_exchange, store, rank, size)
        """What every rank says of a topic, in order; see `peer.Exchange`."""
        if on_gpu and all_reduce != "nccl":
            self._meet_peers(device, deadline_s, must=all_reduce == "peer")

    @property
    def all_reduce(self) -> str:
        """How sums are made, for people."""
        if self.peer is None:
            return dist.get_backend()
        return f"peer up to {self._peer_bytes >> 10} KiB, {dist.get_backend()} beyond"

    def sum(self, x: Tensor) -> Tensor:
        if self.peer is not None and x.nbytes <= self._peer_bytes and self.peer.takes(x):
            return self.peer(x)
        return self.sum_by_library(x)

    def sum_by_library(self, x: Tensor) -> Tensor:
        """The sum as NCCL or Gloo makes it; in place."""
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
        if self.peer is not None:
            self.peer.close()
            self.peer = None
        if dist.is_initialized():
            dist.destroy_process_group()

    def _meet_peers(self, device: torch.device, deadline_s: float, must: bool) -> None:
        from baton.parallel.peer import PeerSum, Unavailable

        try:
            peer = PeerSum(self.rank, self.size, device, self.exchange, deadline_s=deadline_s)
        except Unavailable as error:
            if must:
                raise InvalidSetting("all_reduce", f"is peer, which these GPUs cannot do: {error}") from error
            if self.rank == 0:
                log.warning(
                    "sums between GPUs all go through NCCL, which is slower for small ones: %s", error
                )
            return
        self.timings = self._timed(peer, device)
        self._peer_bytes = peer.limit if must else faster_up_to(self.timings)
        if self._peer_bytes:
            self.peer = peer
        else:
            peer.close()
        if self.rank == 0:
            told = "; ".join(
                f"{one.size >> 10} KiB {one.nccl:.1f} {one.peer:.1f}" for one in self.timings
            )  # fmt: skip
            log.info("sums between GPUs: %s (us by NCCL and peer memory: %s)", self.all_reduce, told)

    def _timed(self, peer: PeerSum, device: torch.device) -> tuple[Timing, ...]:
        sizes = [size for size in SIZES if size <= peer.limit]
        mine = [
            Timing(size, replayed(self.sum_by_library, size, device), replayed(peer, size, device))
            for size in sizes
        ]
        said = self.exchange("timings", json.dumps([astuple(one) for one in mine]), 60.0)
        return tuple(slowest([[Timing(*one) for one in json.loads(text)] for text in said]))

    def _together(self, what: str, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:
            raise WorkerDied(
                f"rank {self.rank} of {self.size}: {what} did not complete, another rank is gone or stuck:"
                f" {error}"
            ) from error


def _exchange(store: Store, rank: int, size: int, topic: str, said: str, seconds: float) -> list[str]:
    """What every rank says of a topic, which comes up once."""
    names = [f"{topic}/{other}" for other in range(size)]
    try:
        store.set(names[rank], said)
        store.wait(names, timedelta(seconds=seconds))
        return [store.get(name).decode() for name in names]
    except RuntimeError as error:
        raise WorkerDied(f"rank {rank} of {size}: not all ranks told their {topic}: {error}") from error


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
