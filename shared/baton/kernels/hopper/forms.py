"""The tiles that product.cu is compiled for, and their binaries.

`Product` loads them; which one serves a shape is measured by `kernels.products`. Binaries are kept beside
those of the decode kernel, under names that hash source and tile, so an image may ship them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from baton.attention.hopper.compiler import TARGET, cache_directory, compiled, find_nvcc

SOURCE = Path(__file__).parent / "product.cu"
RING_BYTES = 212 << 10
"""Of shared memory for both rings; what is left lets the small kernels in between share the SM."""
DEEPEST = 12
"""Stages of weights: more are never on their way."""
TOKENS = (16, 32, 64, 96, 128, 160, 192, 224, 256)
"""Padded counts of tokens."""
MOST = TOKENS[-1]


@dataclass(frozen=True, slots=True)
class Form:
    """One compiled tile."""

    tokens: int
    rows: int
    """Weight rows a block."""
    cluster: int
    """Blocks that share x."""

    @property
    def x_stages(self) -> int:
        return 4 if self.tokens <= 128 else 3

    @property
    def stages(self) -> int:
        """Of weights."""
        return min(DEEPEST, (RING_BYTES - self.x_stages * self.tokens * 128) // (self.rows * 128))

    @property
    def shared_bytes(self) -> int:
        """Rings, their alignment, and two barriers a stage."""
        rings = self.stages * (self.rows * 128 + 16) + self.x_stages * (self.tokens * 128 + 16)
        return 1024 + rings

    @property
    def part_bytes(self) -> int:
        """Of one block's float32 sums."""
        return self.rows * self.tokens * 4

    def flags(self) -> list[str]:
        macros = {
            "TOKENS": self.tokens, "ROWS": self.rows, "CLUSTER": self.cluster, "STAGES": self.stages,
            "X_STAGES": self.x_stages,
        }  # fmt: skip
        return ["-std=c++17", "-O3", TARGET, *(f"-D{name}={value}" for name, value in macros.items())]

    def path(self) -> Path:
        digest = hashlib.sha256(" ".join(self.flags()).encode())
        digest.update(source_bytes())
        digest.update(multiply(self.tokens).encode())
        name = f"product-{self.tokens}-{self.rows}-{self.cluster}-{digest.hexdigest()[:16]}.cubin"
        return cache_directory() / name

    def cubin(self) -> bytes:
        headers = {"multiply.h": multiply(self.tokens)}
        return compiled(self.path(), find_nvcc(), SOURCE, self.flags(), headers)


def source_bytes() -> bytes:
    """All that a binary is made from, but for its flags."""
    return b"".join(path.read_bytes() for path in [*sorted(SOURCE.parent.glob("*.h")), SOURCE])


def padded(tokens: int) -> int:
    """The count that so many tokens are padded to."""
    return next(count for count in TOKENS if count >= tokens)


def forms(tokens: int) -> tuple[Form, ...]:
    """What is worth trying for a padded count."""
    return tuple(Form(tokens, 128, cluster) for cluster in (1, 2))


def compile_all(wanted: Iterable[Form]) -> None:
    """Compile what is not in the cache, all at the same time."""
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(Form.cubin, [form for form in wanted if not form.path().exists()]))


def multiply(tokens: int) -> str:
    """The matrix instruction for so many tokens, as a function: its operands cannot be written as a loop."""
    sums = tokens // 2
    registers = ", ".join(f"%{i}" for i in range(sums))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(sums))
    return f"""
__device__ __forceinline__ void multiply(float (&d)[{sums}], uint64_t a, uint64_t b, int keep) {{
    asm volatile(
        "{{\\n"
        ".reg .pred kept;\\n"
        "setp.ne.b32 kept, %{sums + 2}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{tokens}k16.f32.bf16.bf16"
        " {{{registers}}}, %{sums}, %{sums + 1}, kept, 1, 1, 0, 0;\\n"
        "}}\\n"
        : {outputs}
        : "l"(a), "l"(b), "r"(keep));
}}
"""
