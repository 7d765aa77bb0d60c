"""Which kernel multiplies by each weight, for few rows of x: cuBLAS or one of our own tiles, as measured.

A decode step's products read weights and do little else; which tile keeps the memory busiest depends on the
weight's shape and on the number of rows, and no rule foretells it. So each shape of weight is tried once, at
the engine's start, inside a captured graph and behind a small kernel, as it will run. What was found is kept
on disk. `TritonKernels` owns one; nothing is measured while requests are served.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from baton.attention.hopper.compiler import cache_directory
from baton.kernels.capture import replay_us
from baton.kernels.hopper.forms import MOST, TOKENS, Form, compile_all, forms, padded, source_bytes
from baton.kernels.hopper.product import Product, Scratch

LAUNCHES = 12
"""Products in one measured graph; distinct weights in turn, so that none is found in the L2."""
REPLAYS = 5
WORTH = 0.985
"""Share of cuBLAS's time that one of our tiles must come to, to be preferred."""

Shape = tuple[int, int, int]
"""Rows and depth of a weight, and the padded count of tokens."""
Best = tuple[int, int, int]
"""Weight rows of a block, blocks of a cluster, blocks of the grid."""
Call = Callable[[Tensor, Tensor], Tensor]


@dataclass(slots=True)
class Products:
    """Multiplies; knows the best form for each shape that it was prepared for."""

    device: torch.device
    overlap: bool
    between: Callable[[Tensor], Tensor]
    """The small kernel before each product in a measurement: [tokens, 2 * depth] → [tokens, depth]."""
    table: dict[Shape, str] = field(default_factory=dict)
    """What was measured, for reports: shape → the name of the winner and microseconds of all."""
    _chosen: dict[Shape, tuple[Product, int]] = field(default_factory=dict)
    """With the grid to launch."""
    _loaded: dict[Form, Product] = field(default_factory=dict)
    _scratch: Scratch | None = None

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tokens = x.shape[0]
        if 0 < tokens <= MOST and self._chosen:
            found = self._chosen.get((weight.shape[0], weight.shape[1], padded(tokens)))
            if found is not None and x.is_contiguous():
                return found[0](x, weight, bias, found[1])
        return F.linear(x, weight, bias)

    def prepare(self, weights: Sequence[Tensor], most: int) -> None:
        """Choose for all these weights, for up to `most` rows."""
        shapes: dict[tuple[int, int], list[Tensor]] = {}
        for weight in weights:
            if Product.supported(weight) is None:
                shapes.setdefault((weight.shape[0], weight.shape[1]), []).append(weight)
        counts = [count for count in TOKENS if count <= padded(max(1, min(most, MOST)))]
        if not shapes or most < 1:
            return
        path = self._path(shapes, counts)
        known = _read(path)
        if known is None:
            compile_all(form for count in counts for form in forms(count))
            known = {}
            for (rows, depth), group in shapes.items():
                for count in counts:
                    known[f"{rows} {depth} {count}"] = self._fastest(group, count)
            _write(path, known)
        for name, (form, note) in known.items():
            rows, depth, count = (int(part) for part in name.split())
            self.table[rows, depth, count] = note
            if form is not None:
                self._chosen[rows, depth, count] = self._load(Form(count, *form[:2])), form[2]

    def _load(self, form: Form) -> Product:
        if self._scratch is None:
            most = max(one.part_bytes for count in TOKENS for one in forms(count))
            self._scratch = Scratch.of(most, self.device)
        if form not in self._loaded:
            self._loaded[form] = Product(form, self._scratch, self.overlap)
        return self._loaded[form]

    def _fastest(self, weights: Sequence[Tensor], count: int) -> tuple[Best | None, str]:
        """The best form's tile and grid, None for cuBLAS; and what each took."""
        took = self.tried(weights, count)
        plain = took[None]
        ours = {form: us for form, us in took.items() if form is not None}
        best = min(ours, key=lambda one: ours[one])
        said = ", ".join(f"{rows}x{cluster}/{grid} {us:.1f}" for (rows, cluster, grid), us in ours.items())
        return (best if ours[best] < WORTH * plain else None), f"cuBLAS {plain:.1f}, {said} us"

    def tried(self, weights: Sequence[Tensor], count: int) -> dict[Best | None, float]:
        """Median µs of each way to multiply `count` rows; None is cuBLAS."""
        wide = torch.randn(count, 2 * weights[0].shape[1], device=self.device, dtype=torch.bfloat16)
        took: dict[Best | None, float] = {None: self.replayed(F.linear, weights, wide)}
        for form in forms(count):
            product = self._load(form)
            for grid in product.spreads(weights[0]):
                call = partial(_on, product, grid)
                took[form.rows, form.cluster, grid] = self.replayed(call, weights, wide)
        return took

    def replayed(self, call: Call, weights: Sequence[Tensor], wide: Tensor) -> float:
        """Median µs of one product with the small kernel before it."""

        def launch() -> None:
            for i in range(LAUNCHES):
                call(self.between(wide), weights[i % len(weights)])

        return replay_us(launch, self.device, REPLAYS) / LAUNCHES

    def _path(self, shapes: dict[tuple[int, int], list[Tensor]], counts: Sequence[int]) -> Path:
        """Where measurements of these shapes on such a device by these sources are kept."""
        about = [torch.cuda.get_device_name(self.device), torch.__version__, str(torch.version.cuda)]
        about += [f"{rows} {depth} {len(group)}" for (rows, depth), group in sorted(shapes.items())]
        about += [str(form) for count in counts for form in forms(count)]
        digest = hashlib.sha256("\n".join(about).encode() + source_bytes())
        return cache_directory() / f"products-{digest.hexdigest()[:16]}.json"


def _on(product: Product, grid: int, x: Tensor, weight: Tensor) -> Tensor:
    return product(x, weight, None, grid)


Known = dict[str, tuple[Best | None, str]]


def _read(path: Path) -> Known | None:
    try:
        found = json.loads(path.read_text())
        return {
            name: (None if form is None else (int(form[0]), int(form[1]), int(form[2])), str(note))
            for name, (form, note) in found.items()
        }
    except (OSError, ValueError, TypeError, IndexError, AttributeError):
        return None


def _write(path: Path, known: Known) -> None:
    """Ranks may race: each writes its own file and renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}")
    own.write_text(json.dumps(known, indent=1))
    own.replace(path)
