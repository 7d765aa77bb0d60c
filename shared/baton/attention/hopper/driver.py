"""The few calls of the CUDA driver that a kernel of our own needs: load, describe memory, launch.

Through ctypes, because torch exposes none of them. `HopperDecode` and the products of `kernels.hopper`
call it. Every function needs a current CUDA device, as any torch operation on this thread leaves it.
Nothing here allocates.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from baton.core.errors import Failed, Misconfigured

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CLUSTER_SIZE = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_OVERLAP_PREVIOUS = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_NUMBERS = {1: 0, 2: 9}  # bytes of one → CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
_SWIZZLES = {64: 2, 128: 3}  # bytes of a row → CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B
_PROMOTE_NONE = 0  # CU_TENSOR_MAP_L2_PROMOTION_NONE: wider promotion costs a tenth of the bandwidth


class TensorMap(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint64 * 16)]


class _Attribute(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_int),
        ("pad", ctypes.c_char * 4),
        ("value", ctypes.c_uint * 16),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("threads", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    ]


def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Misconfigured(f"no CUDA driver: {error}") from error


class Kernel:
    """One loaded kernel, its grid fixed: `grid` blocks, or as many whole clusters as fit at the same time."""

    def __init__(
        self, cubin: bytes, name: str, grid: int, threads: int, shared: int, overlap: bool, cluster: int = 1
    ) -> None:
        self._cuda = _library()
        self._name = name
        self._module = ctypes.c_void_p()
        self._check(self._cuda.cuModuleLoadData(ctypes.byref(self._module), cubin), "load")
        self._function = ctypes.c_void_p()
        found = self._cuda.cuModuleGetFunction(ctypes.byref(self._function), self._module, name.encode())
        self._check(found, "find")
        allowed = self._cuda.cuFuncSetAttribute(self._function, _MAX_DYNAMIC_SHARED, ctypes.c_int(shared))
        self._check(allowed, "give shared memory to")
        attributes = []
        if cluster > 1:
            attributes.append(_Attribute(id=_CLUSTER_SIZE, value=(cluster, 1, 1)))
        if overlap:
            attributes.append(_Attribute(id=_OVERLAP_PREVIOUS, value=(1,)))
        self._attributes = (_Attribute * max(1, len(attributes)))(*attributes)
        self._launch = _Launch(
            grid=(grid // cluster * cluster, 1, 1),
            threads=(threads, 1, 1),
            shared=shared,
            attributes=ctypes.cast(self._attributes, ctypes.POINTER(_Attribute)),
            attribute_count=len(attributes),
        )
        if cluster > 1:
            fitting = ctypes.c_int()
            counted = self._cuda.cuOccupancyMaxActiveClusters(
                ctypes.byref(fitting), self._function, ctypes.byref(self._launch)
            )
            self._check(counted, "place clusters of")
            self._launch.grid[0] = min(grid // cluster, fitting.value) * cluster
        self.grid = int(self._launch.grid[0])
        """Blocks of a launch."""

    def _check(self, code: int, what: str) -> None:
        if code != 0:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            reason = (text.value or b"unknown").decode()
            raise Failed(f"the CUDA driver could not {what} the kernel {self._name!r}: {reason} ({code})")

    def launch(self, stream: int, *arguments: ctypes.Structure, grid: int = 0) -> None:
        """Enqueues one run, on fewer blocks if asked; the driver copies the arguments before it returns."""
        self._launch.stream = stream
        self._launch.grid[0] = grid or self.grid
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        code = self._cuda.cuLaunchKernelEx(ctypes.byref(self._launch), self._function, pointers, None)
        self._check(code, "launch")


def describe(
    address: int, sizes: Sequence[int], strides: Sequence[int], box: Sequence[int], itemsize: int = 2
) -> TensorMap:
    """A tensor map of bf16 or, with `itemsize` 1, of bytes, innermost dimension first and contiguous;
    `strides` in bytes, for the others. A row of the box, 64 or 128 bytes, is swizzled as a whole."""
    rank = len(sizes)
    result = TensorMap()
    # The driver encodes to a multiple of 64 bytes only, and ctypes promises less.
    buffer = ctypes.create_string_buffer(ctypes.sizeof(result) + 64)
    place = (ctypes.addressof(buffer) + 63) // 64 * 64
    code = _library().cuTensorMapEncodeTiled(
        ctypes.c_void_p(place),
        ctypes.c_int(_NUMBERS[itemsize]),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*sizes),
        (ctypes.c_uint64 * (rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*box),
        (ctypes.c_uint32 * rank)(*([1] * rank)),
        ctypes.c_int(0),
        ctypes.c_int(_SWIZZLES[box[0] * itemsize]),
        ctypes.c_int(_PROMOTE_NONE),
        ctypes.c_int(0),
    )
    if code != 0:
        raise Misconfigured(f"the copy engine cannot address this memory (CUDA error {code}, sizes {sizes})")
    ctypes.memmove(ctypes.addressof(result), place, ctypes.sizeof(result))
    return result
