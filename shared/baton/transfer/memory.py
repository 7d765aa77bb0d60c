"""The memory a pool lies in, made so that the fastest path between two pods can reach it.

`allocate` is called once by each engine rank as it starts; the rank makes its pool tensor of the
bytes (`baton.cache.pool.make_pool(storage=...)`) and its `Agent` registers the region. On a GPU it is
one VMM allocation with fabric handles where driver and container allow it, otherwise what torch
allocates; which one it got decides the path between pods, so it is reported and never hidden.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from baton.core.errors import InvalidSetting, Misconfigured
from baton.transfer import vmm

if TYPE_CHECKING:
    from torch import Tensor

_HOST_PAGE = 4096


class Kind(StrEnum):
    HOST = "host"
    FABRIC = "fabric"
    """VMM memory with fabric and POSIX-fd handles: NVLink between pods of one node works."""
    ORDINARY = "ordinary"
    """cudaMalloc: NVLink works between processes of one PID namespace only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where the bytes are. Whoever made it keeps them alive for as long as an agent has it."""

    address: int
    bytes: int
    kind: Kind
    device: int = 0
    """The GPU's number in this process; 0 for host memory."""

    @property
    def segment(self) -> str:
        """NIXL's word for this kind of memory."""
        return "DRAM" if self.kind is Kind.HOST else "VRAM"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMemory:
    """A pool's bytes: `tensor` is [region.bytes] uint8, not set to anything.

    The memory is given back, once, when no tensor views it any more: drop this object and every view,
    after the agent that registered it is closed and the device's work on it has ended.
    """

    region: Region
    tensor: Tensor
    fallback: str = ""
    """Why the memory is ordinary where fabric memory was wanted."""


def allocate(size: int, device: str, *, driver: Callable[[], vmm.Cuda] = vmm.Driver) -> PoolMemory:
    """`size` bytes on `cpu`, or on `cuda:N`."""
    assert size >= 1, f"a pool of {size} bytes"
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return _on_host(size)
    if kind == "cuda":
        return _on_gpu(size, int(number or 0), driver)
    raise InvalidSetting("device", f"must be cpu or cuda:N, not {device!r}")


def _on_host(size: int) -> PoolMemory:
    import torch

    whole = torch.empty(size + _HOST_PAGE, dtype=torch.uint8)
    tensor = whole[-whole.data_ptr() % _HOST_PAGE :][:size]
    return PoolMemory(region=Region(address=tensor.data_ptr(), bytes=size, kind=Kind.HOST), tensor=tensor)


def _on_gpu(size: int, number: int, driver: Callable[[], vmm.Cuda]) -> PoolMemory:
    import torch

    device = torch.device("cuda", number)
    torch.zeros(1, device=device)  # makes the primary context, which the mapping belongs to
    try:
        mapped = vmm.mapping(driver(), number, size)
    except vmm.Refused as refused:
        if refused.code == vmm.OUT_OF_MEMORY:
            raise Misconfigured(f"{size / 2**30:.1f} GiB for the pool on {device}: {refused}") from refused
        return _ordinary(size, number, str(refused))
    tensor = torch.as_tensor(mapped, device=device)[:size]
    assert tensor.data_ptr() == mapped.address, "torch copied the mapping instead of viewing it"
    region = Region(address=mapped.address, bytes=size, kind=Kind.FABRIC, device=number)
    return PoolMemory(region=region, tensor=tensor)


def _ordinary(size: int, number: int, why: str) -> PoolMemory:
    import torch

    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if "expandable_segments:true" in os.environ.get(name, "").replace(" ", "").lower():
            raise InvalidSetting(name, "expandable_segments gives memory that no other process can open")
    tensor = torch.empty(size, dtype=torch.uint8, device=torch.device("cuda", number))
    region = Region(address=tensor.data_ptr(), bytes=size, kind=Kind.ORDINARY, device=number)
    return PoolMemory(region=region, tensor=tensor, fallback=why)
