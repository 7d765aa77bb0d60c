"""Weights: what this rank holds of a checkpoint, and how it gets there.

Building a decoder allocates this rank's tensors in a `Storage`, which notes for each tensor of the
checkpoint which part this rank holds and where that goes. `fill` then copies every part from the
safetensors files straight to its place, or draws it at random. Parts are cut while reading: no whole
tensor is ever held for a rank that keeps a share of it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from baton.core.errors import InvalidSetting, WeightMismatch
from baton.model.files import weight_files

LOAD_FORMATS = ("auto", "dummy")
"""`auto` reads the directory's safetensors; `dummy` draws weights at random and reads no file."""

_IGNORED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
_STORED = ("F64", "F32", "F16", "BF16")
_EIGHT_BITS = "F8_E4M3"
_SCALES = ("_scale_inv", "_scale")
"""What a matrix in eight bits is multiplied by has its name and one of these: a number, one for each row, or
one for each block of rows and columns."""
_OTHER_SCALES = ("input_scale", "q_scale", "k_scale", "v_scale", "kv_scale", "output_scale")
"""Fixed scales of what is scaled as it comes here, and those of keys and values, which `scales` reads."""
_BLOCK = 128
_NAMED = 5
"""How many tensors an error names before it only counts them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of the checkpoint, the part of it that this rank holds, and that part's place."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor, as the checkpoint must have it."""
    part: tuple[slice, ...]
    target: Tensor
    """Of the part's shape; usually a view into a larger tensor."""


class Storage:
    """Allocates one rank's weights and lists the pieces that fill them."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self.pieces: list[Piece] = []

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self.device, dtype=self.dtype)

    def whole(self, name: str, *shape: int) -> Tensor:
        """A tensor that every rank holds whole."""
        target = self.empty(*shape)
        self.pieces.append(Piece(name, shape, tuple(slice(0, size) for size in shape), target))
        return target

    def rows(self, parts: Sequence[tuple[str, int, range]], inputs: int | None) -> Tensor:
        """Some rows of several matrices of `inputs` columns (vectors when None), one under the other.
        A part is its name, how many rows it has in all, and which of them this rank holds."""
        width = () if inputs is None else (inputs,)
        target = self.empty(sum(len(held) for _, _, held in parts), *width)
        offset = 0
        for name, total, held in parts:
            self.put(name, (total, *width), held, target[offset : offset + len(held)])
            offset += len(held)
        return target

    def put(self, name: str, shape: tuple[int, ...], held: range, target: Tensor) -> None:
        """Rows `held` of the checkpoint's tensor go to `target`."""
        part = (slice(held.start, held.stop), *(slice(0, size) for size in shape[1:]))
        self.pieces.append(Piece(name, shape, part, target))

    def columns(self, name: str, outputs: int, inputs: int, held: range) -> Tensor:
        """Some columns of one matrix."""
        target = self.empty(outputs, len(held))
        self.put_columns(name, inputs, held, target)
        return target

    def put_columns(self, name: str, inputs: int, held: range, target: Tensor) -> None:
        """Columns `held` of the checkpoint's matrix go to `target`."""
        outputs = target.shape[0]
        part = (slice(0, outputs), slice(held.start, held.stop))
        self.pieces.append(Piece(name, (outputs, inputs), part, target))


def fill(
    pieces: Sequence[Piece],
    directory: Path,
    load_format: str,
    *,
    tied_head: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Put every piece in its place. `tied_head` names a tensor that the checkpoint may hold but that is
    not used. With `progress`, a terminal sees a bar. Raises WeightMismatch naming the tensors that are
    missing, unexpected or mis-shaped."""
    if load_format not in LOAD_FORMATS:
        raise InvalidSetting("load_format", f"must be one of {', '.join(LOAD_FORMATS)}, not {load_format!r}")
    held = sum(piece.target.nbytes for piece in pieces)
    with tqdm(
        total=held, desc="weights", unit="B", unit_scale=True, disable=None if progress else True, leave=False
    ) as bar:
        for piece in _drawn(pieces, seed) if load_format == "dummy" else _read(pieces, directory, tied_head):
            bar.update(piece.target.nbytes)


def _read(pieces: Sequence[Piece], directory: Path, tied_head: str | None) -> Iterable[Piece]:
    files = weight_files(directory)
    if not files:
        raise WeightMismatch(
            f"{directory} holds no safetensors weights (with load_format=dummy none are needed)"
        )
    with ExitStack() as stack:
        holders: dict[str, Any] = {}
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
            except (SafetensorError, OSError) as error:
                raise WeightMismatch(f"{path} cannot be read: {error}") from error
            holders.update(dict.fromkeys(file.keys(), file))
        _compare(pieces, holders, tied_head)
        for piece in pieces:
            if piece.target.numel():
                stored = holders[piece.name].get_slice(piece.name)
                part = stored[piece.part]
                if stored.get_dtype() == _EIGHT_BITS:
                    part = part.float() * _scales(piece, holders)
                piece.target.copy_(part)
            yield piece


def _scale_name(name: str, holders: dict[str, Any]) -> str | None:
    return next((name + end for end in _SCALES if name + end in holders), None)


def _scales(piece: Piece, holders: dict[str, Any]) -> Tensor:
    """What to multiply the piece's part of a matrix in eight bits by; broadcasts over it."""
    name = _scale_name(piece.name, holders)
    assert name is not None, "checked before"
    scale: Tensor = holders[name].get_tensor(name).float()
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    scale = scale.reshape(len(scale), -1)
    for axis, (size, held) in enumerate(zip(piece.shape, piece.part, strict=True)):
        if scale.shape[axis] == size:
            scale = scale.narrow(axis, held.start, held.stop - held.start)
        elif scale.shape[axis] > 1:
            index = torch.arange(held.start, held.stop) // _BLOCK
            scale = scale.index_select(axis, index)
    return scale


def _compare(pieces: Sequence[Piece], holders: dict[str, Any], tied_head: str | None) -> None:
    """Raise unless the checkpoint has exactly the tensors that the model needs, in their shapes."""
    needed = {piece.name for piece in pieces}
    problems = []
    missing = [piece.name for piece in pieces if piece.name not in holders]
    if missing:
        problems.append(f"missing {_listed(missing)}")
    extra = [name for name in holders if name not in needed and not _IGNORED.search(name)]
    extra = sorted(name for name in extra if name != tied_head and not _is_scale(name, needed))
    if extra:
        problems.append(f"unexpected {_listed(extra)}")
    for piece in pieces:
        if piece.name in holders:
            stored = holders[piece.name].get_slice(piece.name)
            shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
            if shape != piece.shape:
                problems.append(f"{piece.name} has shape {list(shape)}, needs {list(piece.shape)}")
            elif dtype == _EIGHT_BITS:
                problems += _unfit_scale(piece, holders)
            elif dtype not in _STORED:
                problems.append(f"{piece.name} is stored as {dtype}, which is not supported")
    if problems:
        raise WeightMismatch(f"the checkpoint does not fit its config.json: {_listed(problems, '; ')}")


def _is_scale(name: str, needed: set[str]) -> bool:
    if name.endswith(_OTHER_SCALES):
        return True
    return any(name.endswith(end) and name.removesuffix(end) in needed for end in _SCALES)


def _unfit_scale(piece: Piece, holders: dict[str, Any]) -> list[str]:
    """What is wrong with the scale of a matrix in eight bits."""
    name = _scale_name(piece.name, holders)
    if name is None or len(piece.shape) != 2:
        return [f"{piece.name} is stored as {_EIGHT_BITS} without a scale"]
    shape = [*holders[name].get_slice(name).get_shape(), 1, 1][:2]
    blocks = [-(-size // _BLOCK) for size in piece.shape]
    asked = zip(shape, piece.shape, blocks, strict=True)
    fits = all(given in (1, size, block) for given, size, block in asked)
    return [] if fits else [f"{name} has shape {shape}, which fits {list(piece.shape)} in no known way"]


def _listed(items: Sequence[str], by: str = ", ") -> str:
    more = f"{by}and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return by.join(items[:_NAMED]) + more


def _drawn(pieces: Sequence[Piece], seed: int) -> Iterable[Piece]:
    """Every tensor is drawn whole, from a stream of its own, then cut: the same for any number of ranks.
    Matrices keep the size of what passes through them, so that logits are as spread as a real model's."""
    generator = torch.Generator(pieces[0].target.device) if pieces else None
    for piece in pieces:
        if piece.name.endswith("norm.weight"):
            piece.target.fill_(1.0)
        else:
            stream = hashlib.blake2b(f"{seed}:{piece.name}".encode(), digest_size=8).digest()
            assert generator is not None
            generator.manual_seed(int.from_bytes(stream, "little") >> 1)
            whole = torch.empty(piece.shape, device=piece.target.device, dtype=piece.target.dtype)
            spread = 1.0 / math.sqrt(piece.shape[-1]) if len(piece.shape) > 1 else 0.02
            whole.normal_(0.0, spread, generator=generator)
            piece.target.copy_(whole[piece.part])
        yield piece
