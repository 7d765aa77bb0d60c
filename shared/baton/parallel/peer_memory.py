"""GPU memory that the other processes of this host write and read: the CUDA driver's calls, through ctypes.

`PeerSum` makes one for each rank. Every function needs a current CUDA device, as any torch operation on this
thread leaves it. The memory is the driver's own, not torch's, whose allocations cannot be handed out one by
one. No multicast is used.
"""

from __future__ import annotations

import ctypes
from typing import Any

from baton.core.errors import Failed, Misconfigured

_HANDLE_BYTES = 64
_MAP_FROM_PEER = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS


class _Handle(ctypes.Structure):
    """CUipcMemHandle; passed by value."""

    _fields_ = (("bytes", ctypes.c_ubyte * _HANDLE_BYTES),)


class PeerMemory:
    """`size` bytes on the current device, each set to `filled`, and mappings of other processes' memory."""

    def __init__(self, size: int, filled: int) -> None:
        """Returns when the bytes are set."""
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Misconfigured(f"no CUDA driver: {error}") from error
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self.address = address.value
        self._mapped: list[int] = []
        try:
            self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(filled), ctypes.c_size_t(size))
            self._call("cuCtxSynchronize")
        except Failed:
            self.free()
            raise

    def handle(self) -> bytes:
        """What another process opens it by."""
        handle = _Handle()
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(self.address))
        return bytes(handle.bytes)

    def open(self, handle: bytes) -> int:
        """The address here of another process's memory."""
        found = ctypes.c_uint64()
        made = _Handle.from_buffer_copy(handle)
        self._call("cuIpcOpenMemHandle_v2", ctypes.byref(found), made, ctypes.c_uint(_MAP_FROM_PEER))
        self._mapped.append(found.value)
        return found.value

    def unmap(self) -> None:
        """Close what was opened; harmless when done twice."""
        while self._mapped:
            self._call("cuIpcCloseMemHandle", ctypes.c_uint64(self._mapped.pop()))

    def free(self) -> None:
        """Only once nobody has it open any more; harmless when done twice."""
        if self.address:
            address, self.address = self.address, 0
            self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            raise Failed(f"{name}: {(text.value or b'unknown error').decode()} ({code})")
