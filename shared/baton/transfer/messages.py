"""The values that two pods' ranks must know of each other; the pods' control protocol carries them.

Frozen, of plain fields, and complete: a codec can write them down as they are. Nothing here talks.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.transfer.layout import PoolLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a pool lies: what decides how fast two of them could reach each other."""

    host: str
    """The boot id of the machine; equal in all its containers."""
    processes: str
    """The PID namespace. CUDA's ordinary memory can be opened from another process only inside one."""
    gpu: str = ""
    """The GPU's UUID; empty for host memory."""
    memory: str = "host"
    """`host`, `fabric` or `ordinary`, as `baton.transfer.memory.Kind` names them."""
    nvlink: bool = False
    """The GPU has active NVLinks."""
    rdma: bool = False
    """The container sees an RDMA device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """One rank's introduction: all that another rank needs to write into its pool or read from it."""

    incarnation: str
    """The agent's name: made anew with every agent, so a restarted rank is another peer."""
    rank: int
    layout: PoolLayout
    place: Place
    address: int
    """Of the pool's first byte, in the owner's address space."""
    segment: str
    """NIXL's word for the kind of memory: `DRAM` or `VRAM`."""
    device: int
    """The GPU's number in the owner's process; 0 for host memory."""
    metadata: bytes
    """NIXL's own description of the agent and its registered memory. Trusted: it comes from a pod of
    the same deployment, never from a client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """What a decode pod tells a prefill pod: where an attempt's pages go.

    Ranks work out by themselves, with `rank_pairs`, who writes which heads; page numbers are the same
    on all ranks of a pod.
    """

    attempt: str
    """Names this try of this request, and no other, for ever."""
    first: int
    """Place in the prompt, in pages, of the first page wanted: those before it are there already."""
    pages: tuple[int, ...]
    """The destination's pages, in the prompt's order."""
    incarnations: tuple[str, ...]
    """The destination's ranks, in order. A writer that knows other ones must not write."""
    timeout_s: float
    """Nothing may be posted later than this after the message came. A duration: clocks differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortAck:
    """A writer's answer to an abort: from now on no byte of this attempt can come from this rank."""

    attempt: str
    incarnation: str
    rank: int
