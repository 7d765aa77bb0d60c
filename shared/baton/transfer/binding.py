"""NIXL 1.5.1's compiled binding, as far as it is needed, with types and with our errors.

Only `agent` uses it. It goes below NIXL's own Python class for one reason: that class fixes the poll
interval of the progress thread at 0, so the thread spins on a core for ever. Here it sleeps until the
transport has something for it, and every `progress_us` for wake-ups that were missed. The thread
matters: without it a peer's transfers wait for this process to look, behind the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from baton.core.errors import Failed, Misconfigured, PeerLost
from baton.transfer.layout import Indices, Rows

_BACKEND = "UCX"
_LOST = ("nixlRemoteDisconnectError", "nixlNotFoundError")


class Binding:
    """One NIXL agent with the UCX backend. Handles are numbers; each is released once, by its owner."""

    def __init__(self, name: str, progress_us: int) -> None:
        """`progress_us`: 1000 or more, in whole milliseconds; 0 lets the thread spin."""
        try:
            importlib.import_module("nixl")  # picks the wheel of torch's CUDA version
            self._library: Any = importlib.import_module("nixl._bindings")
        except ImportError as error:
            raise Misconfigured(f"NIXL cannot be loaded: {error}") from error
        settings = self._library.nixlAgentConfig()
        settings.useProgThread = True
        settings.pthrDelay = progress_us
        settings.useListenThread = False
        settings.syncMode = self._library.NIXL_THREAD_SYNC_NONE
        with _translated("start"):
            self._agent: Any = self._library.nixlAgent(name, settings)
            plugins = self._agent.getAvailPlugins()
            if _BACKEND not in plugins:
                raise Misconfigured(f"NIXL has no {_BACKEND} plugin, only {', '.join(plugins)}")
            self._agent.createBackend(_BACKEND, {"ucx_error_handling_mode": "peer"})
        self._segments = {"DRAM": self._library.DRAM_SEG, "VRAM": self._library.VRAM_SEG}

    def register(self, address: int, size: int, device: int, segment: str) -> object:
        with _translated("register memory"):
            described = self._library.nixlRegDList(self._segments[segment], [(address, size, device, "")])
            self._agent.registerMem(described, [])
            return described

    def deregister(self, registration: object) -> None:
        with _translated("deregister memory"):
            self._agent.deregisterMem(registration, [])

    def metadata(self) -> bytes:
        """Complete only after memory was registered."""
        with _translated("describe this agent"):
            return bytes(self._agent.getLocalMD())

    def add(self, metadata: bytes) -> str:
        with _translated("add a peer"):
            name = self._agent.loadRemoteMD(metadata)
            return name.decode() if isinstance(name, bytes) else str(name)

    def remove(self, name: str) -> None:
        """Close the connection to a peer. Its handles must be released before."""
        with _translated("remove a peer"):
            self._agent.invalidateRemoteMD(name)

    def prepare(self, name: str, rows: Rows, segment: str) -> int:
        """A list of descriptors by strides, of a peer's memory, or with "" of one's own."""
        with _translated("prepare a list"):
            side = name or self._library.NIXL_INIT_AGENT
            return int(self._agent.prepXferDlist(side, self._segments[segment], rows, []))

    def unprepare(self, prepared: int) -> None:
        with _translated("release a list"):
            self._agent.releasedDlistH(prepared)

    def make(self, push: bool, mine: int, local: Indices, theirs: int, remote: Indices) -> int:
        """A transfer between two prepared lists. Entries that follow each other in both become one."""
        operation = self._library.NIXL_WRITE if push else self._library.NIXL_READ
        with _translated("make a transfer"):
            return int(self._agent.makeXferReq(operation, mine, local, theirs, remote, b"", [], False))

    def post(self, transfer: int) -> bool:
        """Start it. True when it is done already. Lets other threads have the interpreter meanwhile."""
        with _translated("post a transfer"):
            return bool(self._agent.postXferReq(transfer, b"") == self._library.NIXL_SUCCESS)

    def check(self, transfer: int) -> bool:
        """Whether it is done."""
        with _translated("poll a transfer"):
            return bool(self._agent.getXferStatus(transfer) == self._library.NIXL_SUCCESS)

    def release(self, transfer: int) -> None:
        """Of one in flight, this cancels what was not yet given to the hardware, without saying how much."""
        with _translated("release a transfer"):
            self._agent.releaseXferReq(transfer)

    def notify(self, name: str, data: bytes) -> None:
        with _translated("send a note"):
            self._agent.genNotif(name, data, [])

    def notes(self) -> dict[str, list[bytes]]:
        with _translated("fetch notes"):
            found: dict[str, list[bytes]] = self._agent.getNotifs({}, [])
            return found


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """The binding's exceptions have no common base and lie in the wheel of a CUDA version: known by name."""
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        if name in _LOST:
            raise PeerLost(f"could not {doing}: {error}") from error
        if name.startswith("nixl"):
            raise Failed(f"could not {doing}: {error}") from error
        raise
