"""The KV pool: one tensor `[page, kv_head, layer, k_or_v, slot, head_dim]`, and how many pages it gets.

A page is one contiguous run of memory with every layer in it, and so is any range of its KV heads:
that is what lets a hand-over name a page with one descriptor whatever the two sides' tensor
parallelism. The engine sizes and makes one pool a rank while it starts; page 0 is scratch.
Nothing here hands out pages: that is `baton.cache.pages`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from baton.cache.memory import free_host_bytes
from baton.core.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """What one rank's pool looks like."""

    kv_heads: int
    """KV heads of this rank alone."""
    layers: int
    page_size: int
    """Tokens a page holds."""
    head_dim: int
    itemsize: int
    """Bytes of one number."""
    pages: int = 1
    """The scratch page included. 1 until the pool is sized."""

    def __post_init__(self) -> None:
        for name in ("kv_heads", "layers", "page_size", "head_dim", "itemsize", "pages"):
            assert getattr(self, name) >= 1, f"a pool has {name} of 1 or more, not {getattr(self, name)}"

    @property
    def dims(self) -> tuple[int, int, int, int, int, int]:
        """The tensor's shape."""
        return (self.pages, self.kv_heads, self.layers, 2, self.page_size, self.head_dim)

    @property
    def head_bytes(self) -> int:
        """Bytes of one KV head of one page: the smallest piece that a hand-over can name."""
        return self.layers * 2 * self.page_size * self.head_dim * self.itemsize

    @property
    def page_bytes(self) -> int:
        return self.kv_heads * self.head_bytes

    @property
    def bytes(self) -> int:
        return self.pages * self.page_bytes

    @property
    def fingerprint(self) -> tuple[tuple[str, int], ...]:
        """The numbers that must be equal on both sides of a hand-over.

        `kv_heads` and `pages` may differ, and the dtype's name and the model go beside these.
        """
        return tuple((name, getattr(self, name)) for name in ("layers", "page_size", "head_dim", "itemsize"))

    def pages_for(self, tokens: int) -> int:
        return math.ceil(tokens / self.page_size)


def make_pool(
    shape: PoolShape,
    device: torch.device,
    dtype: torch.dtype,
    storage: torch.Tensor | None = None,
) -> torch.Tensor:
    """The pool's tensor, all zeros, in `storage` when memory made elsewhere is to be used.

    `storage` is contiguous, lies on the device, has `shape.bytes` or more, and must outlive the pool,
    which is a view of its first bytes. Zeros, because attention multiplies what a masked place holds
    by 0, and what memory held before may be a NaN, which stays one.
    """
    assert dtype.itemsize == shape.itemsize, f"{dtype} has {dtype.itemsize} bytes, not {shape.itemsize}"
    if storage is None:
        return torch.zeros(shape.dims, dtype=dtype, device=device)
    assert storage.device.type == device.type, f"storage lies on {storage.device}, not on {device}"
    assert storage.is_contiguous(), "storage is not one piece"
    flat = storage.view(-1).view(torch.uint8)
    assert flat.numel() >= shape.bytes, f"storage has {flat.numel()} of {shape.bytes} bytes"
    return flat[: shape.bytes].zero_().view(dtype).view(shape.dims)


def fit_bytes(shape: PoolShape, budget: int, *, max_model_len: int, setting: str) -> PoolShape:
    """The shape with as many pages as `budget` bytes hold; `setting` is the one that set the budget."""
    pages = budget // shape.page_bytes
    needed = shape.pages_for(max_model_len) + 1
    if pages < needed:
        fitting = max(pages - 1, 0) * shape.page_size
        raise InvalidSetting(
            setting,
            f"{_mib(budget)} for the pool holds {fitting} tokens, less than one sequence of "
            f"max_model_len {max_model_len}, which takes {_mib(needed * shape.page_bytes)}: "
            f"raise {setting} or lower max_model_len",
        )
    return replace(shape, pages=pages)


def fit_memory(
    shape: PoolShape,
    device: torch.device,
    fraction: float,
    *,
    max_model_len: int,
    reserved: int = 0,
    setting: str = "memory_fraction",
) -> PoolShape:
    """The shape with as many pages as this fraction of the device's free memory holds, less `reserved` bytes.

    Called when the weights are loaded and what loading needed is given back to the device; the rest
    stays for activations, graphs and workspaces. Ranks may see different amounts: the engine takes
    the least `pages` of all.
    """
    if not 0.0 < fraction <= 1.0:
        raise InvalidSetting(setting, f"must be above 0 and at most 1, not {fraction}")
    budget = max(0, int(free_bytes(device) * fraction) - reserved)
    return fit_bytes(shape, budget, max_model_len=max_model_len, setting=setting)


def fit_pages(shape: PoolShape, pages: int, *, max_model_len: int, setting: str = "pages") -> PoolShape:
    """The shape with `pages` pages to hand out, and the scratch page beside them."""
    needed = shape.pages_for(max_model_len)
    if pages < needed:
        raise InvalidSetting(
            setting,
            f"{pages} pages of {shape.page_size} tokens are less than one sequence of max_model_len "
            f"{max_model_len}: raise {setting} to {needed} or more, or lower max_model_len",
        )
    return replace(shape, pages=pages + 1)


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device: a GPU's own account, or the host's and its container's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes()


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
