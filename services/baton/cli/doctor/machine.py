"""Checks of this machine (or container): what Baton needs of it, and what would make it slow.

Each check looks and returns; none changes anything. `root` is where the kernel's files are looked for.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from baton.cli.doctor.finding import Finding, fine, note, wrong
from baton.core.cores import usable
from baton.core.version import version

LEAST_MEMORY_GIB = 2.0
LEAST_SHARED_MIB = 64
LEAST_FILES = 4096
CHANNEL = "dev/nvidia-caps-imex-channels/channel0"


def examine(root: Path = Path("/")) -> Iterator[Finding]:
    yield fine("baton", f"{version()} on Python {sys.version.split()[0]}, {usable(root)} cores")
    yield memory(root)
    yield shared_memory(root)
    yield open_files()
    yield from libraries(bool(gpus(root)))
    yield redis()
    yield from gpu_devices(root)
    yield from rdma(root)


def memory(root: Path) -> Finding:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20
    except (OSError, StopIteration, ValueError, IndexError):
        return note("memory", "cannot be read here")
    if free < LEAST_MEMORY_GIB:
        return wrong(
            "memory", f"{free:.1f} GiB free", "an engine on the CPU needs at least the model and 1 GiB"
        )
    return fine("memory", f"{free:.1f} GiB free")


def shared_memory(root: Path) -> Finding:
    try:
        found = shutil.disk_usage(root / "dev/shm").total / 2**20
    except OSError:
        return note("/dev/shm", "is not here", "UCX then copies between processes of one host another way")
    if found < LEAST_SHARED_MIB:
        advice = "give the container more (an emptyDir of medium Memory at /dev/shm); NCCL and UCX use it"
        return wrong("/dev/shm", f"{found:.0f} MiB", advice)
    return fine("/dev/shm", f"{found:,.0f} MiB")


def open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < LEAST_FILES:
        return note(
            "open files", f"at most {soft}", f"every client is one; `ulimit -n {max(hard, LEAST_FILES)}`"
        )
    return fine("open files", f"at most {soft:,}")


def libraries(with_gpu: bool) -> Iterator[Finding]:
    yield _library("nixl", "hand-overs need it: pip install baton[engine]")
    yield _library("torch", "engines need it: pip install baton[engine]")
    if with_gpu:
        yield _library("flashinfer-python", "attention on GPUs is slower without: pip install baton[cuda]")


def _library(name: str, advice: str) -> Finding:
    try:
        return fine(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        module = name.removesuffix("-python")
        if util.find_spec(module) is not None:
            return fine(name, "is here, version unknown")
    return wrong(name, "is not installed", advice)


def redis() -> Finding:
    from baton.core.errors import Misconfigured
    from baton.state.embedded import redis_server

    try:
        return fine("redis-server", f"{redis_server()} (for `baton up`)")
    except Misconfigured:
        return note(
            "redis-server", "is not here", "`baton up` wants one, or --redis-url: pip install baton[local]"
        )


def gpus(root: Path) -> list[str]:
    """Device files of NVIDIA GPUs."""
    try:
        names = os.listdir(root / "dev")
    except OSError:
        return []
    return sorted(name for name in names if name.startswith("nvidia") and name[6:].isdigit())


def gpu_devices(root: Path) -> Iterator[Finding]:
    found = gpus(root)
    if not found:
        yield note("GPUs", "none here: engines run on the CPU")
        return
    yield fine("GPUs", f"{len(found)} device files: {', '.join(found)}")
    if (root / CHANNEL).exists():
        yield fine("NVLink between pods", "channel device is here: pools become fabric memory")
    else:
        advice = f"give pods of one node /{CHANNEL} and every GPU's device file, or hostPID: true"
        yield note(
            "NVLink between pods", "no channel device: only processes of one PID namespace reach it", advice
        )


def rdma(root: Path) -> Iterator[Finding]:
    try:
        found = sorted(os.listdir(root / "sys/class/infiniband"))
    except OSError:
        found = []
    if not found:
        yield note("RDMA", "no device here: pods on other hosts are reached over TCP")
        return
    yield fine("RDMA", ", ".join(found))
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY:
        advice = "RDMA pins the pool: allow IPC_LOCK and an unlimited memlock"
        yield wrong("locked memory", f"at most {soft / 2**20:.0f} MiB", advice)
