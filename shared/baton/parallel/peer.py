"""The sum of a small tensor over the ranks of one host, with peer.cu: one launch, capturable.

`TorchRanks` owns one where it is faster than NCCL. Every rank writes its part straight into the others'
memory and adds up what it was sent, so a sum costs one way over the link; NCCL's costs several. All ranks
must call it in the same order with the same shapes, on one stream each, like every other collective.

A rank that waits spins on its GPU. It does not for ever: past the deadline the kernel traps, which is an
error at the process's next look at the device. A worker kills all ranks as soon as one has ended, and a
killed process's kernels end with it, so none outlives the rank that it waits for by more than moments.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baton.attention.hopper.compiler import cache_directory, compiled, find_nvcc
from baton.attention.hopper.driver import Kernel
from baton.core.errors import BatonError
from baton.parallel.peer_memory import PeerMemory

SOURCE = Path(__file__).parent / "peer.cu"
MOST_RANKS = 8
TRIAL_SECONDS = 10.0
"""How long a sum may take before it has ever worked."""
STEP_SECONDS = 60.0
"""How long a rank may take to get ready: it may have to compile the kernel."""
PARTING_SECONDS = 5.0
"""How long the others may take to let go of this rank's memory before it is left to the driver."""

_UNIT = 16
"""Bytes that a thread sends at once."""
_THREADS = 256
_BLOCKS = 256
_BOX_UNITS = 2048
"""Of one block, from all ranks together: 16 MiB a mailbox."""
_SIDES = 2
_EMPTY = 0xFF
"""Each byte of a mailbox where nothing has come; peer.cu."""
_KERNELS = {torch.float32: "sum_float32", torch.bfloat16: "sum_bfloat16", torch.float16: "sum_float16"}

Exchange = Callable[[str, str, float], list[str]]
"""(topic, what this rank says, seconds) → what all ranks said, in order; raises when one does not answer."""


class Unavailable(Exception):
    """These ranks cannot sum so; says why. Raised on all of them or on none."""


def agree(exchange: Exchange, rank: int, topic: str, step: Callable[[], str]) -> list[str]:
    """Take a step and learn what it gave on all ranks; Unavailable on all of them if it failed on any."""
    try:
        said = "+" + step()
    except (BatonError, OSError, RuntimeError, Unavailable) as error:
        said = f"-rank {rank}: {' '.join(str(error).split())[:400]}"
    answers = exchange(topic, said, STEP_SECONDS)
    wrong = [one[1:] for one in answers if one.startswith("-")]
    if wrong:
        raise Unavailable("; ".join(wrong))
    return [one[1:] for one in answers]


def share_of(units: int) -> int:
    """Units that each block takes of so many: a warp's worth of neighbours, and all blocks when there is
    enough for all."""
    return max(_THREADS, -(-units // _BLOCKS) + 31 & ~31)


@dataclass(frozen=True, slots=True)
class Program:
    """peer.cu for one number of ranks on one kind of GPU."""

    ranks: int
    capability: tuple[int, int]

    @property
    def most(self) -> int:
        """Units of a block's compartment."""
        return _BOX_UNITS // self.ranks

    @property
    def limit(self) -> int:
        """Bytes of the largest sum."""
        return _BLOCKS * self.most * _UNIT

    def flags(self) -> list[str]:
        major, minor = self.capability
        arch = f"{major}{minor}"
        macros = {"RANKS": self.ranks, "BLOCKS": _BLOCKS, "MOST": self.most, "THREADS": _THREADS}
        return [
            "-std=c++17", "-O3", f"-gencode=arch=compute_{arch},code=sm_{arch}",
            *(f"-D{name}={value}" for name, value in macros.items()),
        ]  # fmt: skip

    def cubin(self) -> bytes:
        digest = hashlib.sha256(" ".join(self.flags()).encode() + SOURCE.read_bytes()).hexdigest()[:16]
        path = cache_directory() / f"peer-{self.ranks}-{digest}.cubin"
        return compiled(path, find_nvcc(), SOURCE, self.flags())


def _sum_of(ranks: int) -> type[ctypes.Structure]:
    """peer.cu's Sum, field by field."""

    class Sum(ctypes.Structure):
        _fields_ = (
            ("x", ctypes.c_void_p),
            ("turns", ctypes.c_void_p),
            ("here", ctypes.c_void_p),
            ("there", ctypes.c_void_p * ranks),
            ("failed", ctypes.c_void_p),
            ("patience", ctypes.c_uint64),
            ("count", ctypes.c_int32),
            ("share", ctypes.c_int32),
            ("rank", ctypes.c_int32),
            ("unused", ctypes.c_int32),
        )

    return Sum


class PeerSum:
    """Sums up to `limit` bytes. Equal inputs give equal bits, on every rank."""

    def __init__(
        self, rank: int, size: int, device: torch.device, exchange: Exchange, *, deadline_s: float
    ) -> None:
        """Meet the other ranks and try it out. Raises Unavailable on all ranks or on none."""
        self.rank = rank
        self.size = size
        self._device = device
        self._exchange = exchange
        self._memory: PeerMemory | None = None
        self._closed = False
        self._sum = _sum_of(size)
        self._patience = int(TRIAL_SECONDS * 1e9)
        self._failed: Tensor | None = torch.zeros(1, dtype=torch.int32, device=device)
        try:
            with torch.cuda.device(device):
                torch.cuda.synchronize()
                handles = agree(exchange, rank, "handles", self._prepare)
                agree(exchange, rank, "mappings", lambda: self._map(handles))
                agree(exchange, rank, "trial", self._try)
        except BaseException:
            self.close()
            raise
        self._patience, self._failed = int(deadline_s * 1e9), None

    def takes(self, x: Tensor) -> bool:
        """Alike on all ranks: it looks at nothing that may differ between them."""
        size = x.numel() * x.itemsize
        return 0 < size <= self.limit and size % _UNIT == 0 and x.dtype in _KERNELS

    def __call__(self, x: Tensor) -> Tensor:
        """The sum, in place where x is contiguous and aligned."""
        assert self.takes(x), f"{tuple(x.shape)} {x.dtype} is not summed here"
        if not x.is_contiguous() or x.data_ptr() % _UNIT:
            x = x.clone(memory_format=torch.contiguous_format)
        units = x.numel() * x.itemsize // _UNIT
        share = share_of(units)
        argument = self._sum(
            x=x.data_ptr(), turns=self._turns.data_ptr(), here=self._mailboxes[self.rank],
            there=(ctypes.c_void_p * self.size)(*self._mailboxes),
            failed=None if self._failed is None else self._failed.data_ptr(),
            patience=self._patience, count=units, share=share, rank=self.rank,
        )  # fmt: skip
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream().cuda_stream
            self._kernels[x.dtype].launch(stream, argument, grid=-(-units // share))
        return x

    def close(self) -> None:
        """Graphs that captured a sum must be gone. All ranks close together; harmless when done twice."""
        if self._closed:
            return
        self._closed = True
        # What fails here is left to the driver, which takes all back when the process ends.
        with contextlib.suppress(BatonError, RuntimeError), torch.cuda.device(self._device):
            torch.cuda.synchronize()
            if self._memory is not None:
                self._memory.unmap()
            self._exchange("closed", "ok", PARTING_SECONDS)
            if self._memory is not None:
                self._memory.free()

    # ---- setting up ----

    def _prepare(self) -> str:
        """Kernels and a mailbox; how others open it."""
        if self.size > MOST_RANKS:
            raise Unavailable(f"{self.size} ranks are more than {MOST_RANKS}")
        for other in range(self.size):
            if other != self.rank and not torch.cuda.can_device_access_peer(self._device, other):
                raise Unavailable(f"this GPU cannot reach the memory of GPU {other}")
        capability = torch.cuda.get_device_capability(self._device)
        program = Program(self.size, capability)
        cubin = program.cubin()
        blocks = _BLOCKS
        early = capability >= (9, 0)
        self.limit = program.limit
        self._kernels = {
            dtype: Kernel(cubin, name, blocks, _THREADS, 0, early) for dtype, name in _KERNELS.items()
        }
        self._turns = torch.zeros(blocks, dtype=torch.int32, device=self._device)
        torch.cuda.synchronize()
        self._memory = PeerMemory(_SIDES * self.size * self.limit, _EMPTY)
        return self._memory.handle().hex()

    def _map(self, handles: list[str]) -> str:
        assert self._memory is not None
        self._mailboxes = [
            self._memory.address if other == self.rank else self._memory.open(bytes.fromhex(handle))
            for other, handle in enumerate(handles)
        ]
        return ""

    def _try(self) -> str:
        """Sums whose results every rank can work out alone; sizes of one thread, of some, and of all."""
        assert self._failed is not None
        for turn in range(3):
            for count in (_UNIT // 2, 5120, 3 * 5120 + 8, self.limit // 2):
                parts = [_drawn(rank, turn, count, self._device) for rank in range(self.size)]
                found = self(parts[self.rank].clone())
                wanted = parts[0].float()
                for part in parts[1:]:
                    wanted += part.float()
                right = torch.equal(found, wanted.bfloat16())
                if int(self._failed):
                    raise Unavailable(f"nothing came from the others within {TRIAL_SECONDS:g} s")
                if not right:
                    raise Unavailable(f"a trial gave a wrong sum of {count} numbers")
        return ""


def _drawn(rank: int, turn: int, count: int, device: torch.device) -> Any:
    """What a rank gives to a trial: the same wherever it is worked out."""
    chance = torch.Generator("cpu").manual_seed(1 + rank + 16 * turn)
    return torch.randint(-999, 1000, (count,), generator=chance).to(device).bfloat16()
