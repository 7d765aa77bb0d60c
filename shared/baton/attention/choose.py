"""Which attention backend serves which phase: by name, or the best for the device.

Backends are imported only when chosen: most need a GPU's libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baton.attention.base import Attention, Scales
from baton.attention.phases import ByPhase
from baton.core.errors import InvalidSetting, Misconfigured


@dataclass(frozen=True, slots=True)
class Need:
    """What the model wants of attention on this rank."""

    pool: Tensor
    heads: int
    """Query heads of this rank."""
    kv_heads: int
    scale: float
    windows: Sequence[int | None]
    """[layers]."""
    max_batch: int
    """Most decodes in a step."""
    dtype: torch.dtype
    """Of queries and outputs; the pool's own, or wider."""
    scales: Sequence[Scales]
    """[layers]."""

    @property
    def window(self) -> int | None:
        """The window of every layer; the GPU kernels know no model whose layers differ."""
        if len(set(self.windows)) > 1:
            raise Misconfigured("layers with different sliding windows are served by --attention torch only")
        return self.windows[0]


def _torch(need: Need) -> Attention:
    from baton.attention.torch import TorchAttention

    return TorchAttention(
        need.pool, need.heads, need.scale, need.windows, dtype=need.dtype, scales=need.scales
    )


def _flashinfer(need: Need) -> Attention:
    from baton.attention.flashinfer import FlashInferAttention

    return FlashInferAttention(
        need.pool, need.heads, need.kv_heads, need.scale, need.max_batch, window=need.window,
        dtype=need.dtype, scales=need.scales,
    )  # fmt: skip


def _triton(need: Need) -> Attention:
    from baton.attention.triton import TritonAttention

    return TritonAttention(
        need.pool, need.heads, need.kv_heads, need.scale, window=need.window, dtype=need.dtype,
        scales=need.scales,
    )  # fmt: skip


def _hopper(need: Need) -> Attention:
    from baton.attention.hopper import HopperDecode

    return HopperDecode(
        need.pool, need.heads, need.kv_heads, need.scale, need.max_batch, need.window, dtype=need.dtype,
        scales=need.scales,
    )  # fmt: skip


BACKENDS: dict[str, Callable[[Need], Attention]] = {
    "torch": _torch, "flashinfer": _flashinfer, "triton": _triton, "hopper": _hopper,
}  # fmt: skip
DECODE_ONLY = {"hopper"}


def choose_attention(name: str, need: Need) -> tuple[Attention, str]:
    """The backend that a setting names (`one`, `prefill,decode` or `auto`), and what was chosen."""
    wanted = best(need) if name == "auto" else name
    names = [part.strip() for part in wanted.split(",")]
    for part in names:
        if part not in BACKENDS:
            raise InvalidSetting(
                "attention", f"no backend is named {part!r}; there are auto, {', '.join(BACKENDS)}"
            )
    if len(names) > 2 or names[0] in DECODE_ONLY:
        raise InvalidSetting(
            "attention", f"{wanted!r} is not a backend for every phase or a pair for prefill,decode"
        )
    if len(names) == 1 or names[0] == names[1]:
        return BACKENDS[names[0]](need), names[0]
    return ByPhase(BACKENDS[names[0]](need), BACKENDS[names[1]](need)), ",".join(names)


def best(need: Need) -> str:
    """The fastest backends that serve this shape on this device."""
    if need.pool.device.type == "cpu" or len(set(need.windows)) > 1:
        return "torch"
    if need.dtype not in (torch.bfloat16, torch.float16):
        return "triton"
    try:
        import flashinfer  # noqa: F401
    except ImportError:
        return "triton"
    from baton.attention.hopper import HopperDecode

    if HopperDecode.supported(need.pool, need.heads, need.kv_heads, need.max_batch, dtype=need.dtype) is None:
        return "flashinfer,hopper"
    return "flashinfer"
