"""One allocation of GPU memory that other pods may map: CUDA's virtual memory calls, through ctypes.

`memory.allocate` is the only caller. The driver's library is loaded when `Driver` is made, not on
import. A mapping is unmapped and released exactly once, when the last tensor that views it is gone;
at interpreter exit it is left to the driver. No call here launches or waits for device work.
"""

from __future__ import annotations

import ctypes
import weakref
from contextlib import ExitStack
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_ulonglong, c_ushort, c_void_p
from typing import Any, Protocol

OUT_OF_MEMORY = 2
NOT_PERMITTED = 800
"""What `cuMemCreate` says to a fabric handle without the channel device in the container."""

_PINNED = 1
_ON_DEVICE = 1
_POSIX_FD = 1
_FABRIC = 8
_RECOMMENDED = 1
_READ_WRITE = 3
_RDMA_WITH_VMM = 110
"""CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED"""


class Refused(Exception):
    """The driver said no; `code` is its CUresult, -1 when there is no driver."""

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: {name} ({code})")
        self.code = code


class Cuda(Protocol):
    """The driver calls that a mapping needs. Each raises `Refused`."""

    def rdma_capable(self, device: int) -> bool: ...

    def granularity(self, device: int, rdma: bool) -> int: ...

    def create(self, device: int, size: int, rdma: bool) -> int:
        """Physical memory with fabric and POSIX-fd handle types; returns its handle."""
        ...

    def reserve(self, size: int, alignment: int) -> int: ...

    def map(self, address: int, size: int, handle: int) -> None: ...

    def allow(self, device: int, address: int, size: int) -> None: ...

    def unmap(self, address: int, size: int) -> None: ...

    def unreserve(self, address: int, size: int) -> None: ...

    def release(self, handle: int) -> None: ...


class Mapping:
    """Mapped memory; torch makes tensors of it, and each of them keeps it mapped."""

    def __init__(self, address: int, size: int, undo: ExitStack) -> None:
        self.address = address
        self.size = size
        self._free = weakref.finalize(self, undo.close)
        self._free.atexit = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.size,), "typestr": "|u1", "data": (self.address, False), "version": 3}


def mapping(cuda: Cuda, device: int, size: int) -> Mapping:
    """`size` bytes or a little more on one GPU. Whatever fails undoes what went before it."""
    rdma = cuda.rdma_capable(device)
    grain = cuda.granularity(device, rdma)
    size = -(-size // grain) * grain
    with ExitStack() as undo:
        handle = cuda.create(device, size, rdma)
        undo.callback(cuda.release, handle)
        address = cuda.reserve(size, grain)
        undo.callback(cuda.unreserve, address, size)
        cuda.map(address, size, handle)
        undo.callback(cuda.unmap, address, size)
        cuda.allow(device, address, size)
        return Mapping(address, size, undo.pop_all())
    raise AssertionError("unreachable: nothing in the block swallows an exception")


class _Location(ctypes.Structure):
    _fields_ = (("type", c_int), ("id", c_int))


class _Flags(ctypes.Structure):
    _fields_ = (
        ("compression", c_ubyte),
        ("rdma_capable", c_ubyte),
        ("usage", c_ushort),
        ("reserved", c_ubyte * 4),
    )


class _Properties(ctypes.Structure):
    """CUmemAllocationProp"""

    _fields_ = (
        ("type", c_int),
        ("handle_types", c_int),
        ("location", _Location),
        ("win32", c_void_p),
        ("flags", _Flags),
    )


class _Access(ctypes.Structure):
    """CUmemAccessDesc"""

    _fields_ = (("location", _Location), ("flags", c_int))


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuMemGetAllocationGranularity": (POINTER(c_size_t), POINTER(_Properties), c_int),
    "cuMemCreate": (POINTER(c_ulonglong), c_size_t, POINTER(_Properties), c_ulonglong),
    "cuMemAddressReserve": (POINTER(c_ulonglong), c_size_t, c_size_t, c_ulonglong, c_ulonglong),
    "cuMemMap": (c_ulonglong, c_size_t, c_size_t, c_ulonglong, c_ulonglong),
    "cuMemSetAccess": (c_ulonglong, c_size_t, POINTER(_Access), c_size_t),
    "cuMemUnmap": (c_ulonglong, c_size_t),
    "cuMemAddressFree": (c_ulonglong, c_size_t),
    "cuMemRelease": (c_ulonglong,),
}


class Driver:
    """`Cuda` by the real driver. Devices are numbered as CUDA_VISIBLE_DEVICES has them, like torch's."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
            for name, arguments in _SIGNATURES.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = arguments, c_int
        except (OSError, AttributeError) as error:
            raise Refused("libcuda.so.1", -1, str(error)) from error
        self._call("cuInit", 0)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            word = c_char_p()
            self._library.cuGetErrorName(code, byref(word))
            raise Refused(name, code, (word.value or b"unknown error").decode())

    def _properties(self, device: int, rdma: bool) -> _Properties:
        return _Properties(
            type=_PINNED,
            handle_types=_FABRIC | _POSIX_FD,
            location=_Location(_ON_DEVICE, device),
            win32=None,
            flags=_Flags(rdma_capable=int(rdma)),
        )

    def rdma_capable(self, device: int) -> bool:
        handle, answer = c_int(), c_int()
        self._call("cuDeviceGet", byref(handle), device)
        self._call("cuDeviceGetAttribute", byref(answer), _RDMA_WITH_VMM, handle)
        return answer.value != 0

    def granularity(self, device: int, rdma: bool) -> int:
        grain = c_size_t()
        properties = self._properties(device, rdma)
        self._call("cuMemGetAllocationGranularity", byref(grain), byref(properties), _RECOMMENDED)
        return grain.value

    def create(self, device: int, size: int, rdma: bool) -> int:
        handle = c_ulonglong()
        self._call("cuMemCreate", byref(handle), size, byref(self._properties(device, rdma)), 0)
        return handle.value

    def reserve(self, size: int, alignment: int) -> int:
        address = c_ulonglong()
        self._call("cuMemAddressReserve", byref(address), size, alignment, 0, 0)
        return address.value

    def map(self, address: int, size: int, handle: int) -> None:
        self._call("cuMemMap", address, size, 0, handle, 0)

    def allow(self, device: int, address: int, size: int) -> None:
        access = _Access(_Location(_ON_DEVICE, device), _READ_WRITE)
        self._call("cuMemSetAccess", address, size, byref(access), 1)

    def unmap(self, address: int, size: int) -> None:
        self._call("cuMemUnmap", address, size)

    def unreserve(self, address: int, size: int) -> None:
        self._call("cuMemAddressFree", address, size)

    def release(self, handle: int) -> None:
        self._call("cuMemRelease", handle)
