"""Turns decode.cu into a cubin for one head shape, once per machine.

`HopperDecode` calls it while the engine starts. The result is kept in a cache directory under a name that
hashes the sources and flags, so a changed source never meets an old binary; an image may ship that
directory filled and then needs no nvcc. It must never run while requests are served.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.core.errors import Misconfigured

SOURCES = Path(__file__).parent
"""Holds decode.cu and the headers it includes."""

TARGET = "-gencode=arch=compute_90a,code=sm_90a"


@dataclass(frozen=True, slots=True)
class Tuning:
    """Choices that change speed and never results; the defaults are the measured best."""

    warps: int = 8
    """Streams of a multiprocessor."""
    stages: int = 2
    """Tiles that one warp keeps on their way."""
    overhead: int = 1
    """What starting and ending a (sequence, head) pair costs, in tiles read."""
    least: int = 8
    """Tiles below which splitting a small step further does not pay."""
    together: int = 2
    """Pairs a block up to which its warps work on one piece together."""
    overhead_together: int = 24
    """`overhead` there: a graph's padding lines are pairs of one tile and must not meet in one block."""
    several: int = 6
    """Added to `overhead` where several tokens of a sequence read together ..."""
    slower: int = 4
    """... and what their tiles take longer, in sixteenths."""


def cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "baton" / "kernels"


def find_nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and os.access(found := Path(home) / "bin" / "nvcc", os.X_OK):
            return str(found)
    return shutil.which("nvcc")


def _flags(head_dim: int, group: int, tuning: Tuning, eight_bits: bool, lines: int) -> list[str]:
    macros = {
        "HEAD_DIM": head_dim,
        "GROUP": group,
        "LINES": lines,
        "EIGHT_BITS": int(eight_bits),
        "WARPS": tuning.warps,
        "STAGES": tuning.stages,
        "OVERHEAD": tuning.overhead,
        "LEAST": tuning.least,
        "TOGETHER": tuning.together,
        "SEVERAL": tuning.several,
        "SLOWER": tuning.slower,
        "OVERHEAD_TOGETHER": tuning.overhead_together,
    }
    return ["-std=c++17", "-O3", TARGET, *(f"-D{name}={value}" for name, value in macros.items())]


def cubin_path(
    cache: Path, head_dim: int, group: int, tuning: Tuning, eight_bits: bool = False, lines: int = 1
) -> Path:
    """Where this shape's binary is, or would be; `eight_bits` is of the pool, `lines` are a sequence's tokens
    in a batch."""
    digest = hashlib.sha256(" ".join(_flags(head_dim, group, tuning, eight_bits, lines)).encode())
    for source in [*sorted(SOURCES.glob("*.h")), SOURCES / "decode.cu"]:
        digest.update(source.read_bytes())
    return cache / f"decode-{head_dim}-{group}x{lines}-{digest.hexdigest()[:16]}.cubin"


def build(
    cache: Path, nvcc: str | None, head_dim: int, group: int, tuning: Tuning, eight_bits: bool = False,
    lines: int = 1,
) -> bytes:  # fmt: skip
    """The cubin, from the cache or compiled into it."""
    path = cubin_path(cache, head_dim, group, tuning, eight_bits, lines)
    return compiled(path, nvcc, SOURCES / "decode.cu", _flags(head_dim, group, tuning, eight_bits, lines))


def compiled(
    path: Path, nvcc: str | None, source: Path, flags: Sequence[str], headers: Mapping[str, str] | None = None
) -> bytes:
    """The cubin at `path`, compiled there if it is not yet; `headers` are written for it beside the source.
    Ranks may race: each writes its own file and renames."""
    if path.exists():
        return path.read_bytes()
    if nvcc is None:
        raise Misconfigured(f"the kernel {source.stem} needs nvcc (CUDA 12.3 or later) or a built {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        for name, text in (headers or {}).items():
            (Path(scratch) / name).write_text(text)
        made = Path(scratch) / "made.cubin"
        command = [nvcc, *flags, f"-I{scratch}", "-cubin", "-o", str(made), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Misconfigured(f"nvcc could not compile the kernel {source.stem}: {done.stderr[-2000:]}")
        made.replace(path)
    return path.read_bytes()
