"""Where this process's pool lies: the facts that decide which path to a peer there could be.

Read once, when an agent is made, from the kernel, torch and NVIDIA's management library. What
cannot be read counts as absent, which lowers what is expected of a path and never raises it.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_int, c_void_p
from pathlib import Path

from baton.transfer.memory import Kind, Region
from baton.transfer.messages import Place

_MAX_LINKS = 18


def place_of(region: Region, root: Path = Path("/")) -> Place:
    gpu = "" if region.kind is Kind.HOST else _gpu_uuid(region.device)
    return Place(
        host=_read(root / "proc/sys/kernel/random/boot_id"),
        processes=_link(root / "proc/self/ns/pid"),
        gpu=gpu,
        memory=region.kind.value,
        nvlink=bool(gpu) and _nvlink_active(gpu),
        rdma=any(_names(root / "sys/class/infiniband")),
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _link(file: Path) -> str:
    try:
        return os.readlink(file)
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _gpu_uuid(device: int) -> str:
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _nvlink_active(uuid: str) -> bool:
    """Whether any NVLink of a GPU is up."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2() != 0:
            return False
    except (OSError, AttributeError):
        return False
    try:
        handle, state = c_void_p(), c_int()
        if library.nvmlDeviceGetHandleByUUID(uuid.encode(), byref(handle)) != 0:
            return False
        return any(
            library.nvmlDeviceGetNvLinkState(handle, link, byref(state)) == 0 and state.value == 1
            for link in range(_MAX_LINKS)
        )
    except AttributeError:
        return False
    finally:
        library.nvmlShutdown()
