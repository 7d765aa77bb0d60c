"""Which files of a checkpoint directory hold its weights, and what identifies those weights.

Torch-free: reads safetensors headers and a few samples, never a whole file. The loader takes the list
of files from here; `ModelConfig.read` takes the identity.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from baton.core.errors import WeightMismatch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_MAX_HEADER = 100 << 20
_SAMPLED_TENSORS = 1024
_SAMPLE_BYTES = 4096


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that together hold the checkpoint; empty when it has none."""
    index = directory / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in names if not (directory / name).is_file()]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise WeightMismatch(f"{index} cannot be read: {error!r}") from error
        if missing:
            raise WeightMismatch(f"{index} names files that are not there: {', '.join(missing)}")
        return [directory / name for name in names]
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    loose = sorted(set(directory.glob("*.safetensors")) - set(directory.glob("consolidated*")))
    if len(loose) > 1:
        raise WeightMismatch(f"{directory} has {len(loose)} safetensors files and no {INDEX}")
    return loose


def weights_digest(directory: Path) -> bytes:
    """16 bytes that differ between checkpoints whose weights differ, however they are cut into files.

    Every tensor's name, dtype and shape enters, and a sample from the middle of up to 1024 of them: a
    fine-tune has its base's names and shapes, so names alone would let it be served the base's cache.
    Empty when there are no weights.
    """
    tensors = sorted(
        (tensor for path in weight_files(directory) for tensor in _tensors(path)), key=lambda t: t.name
    )
    if not tensors:
        return b""
    digest = hashlib.blake2b(digest_size=16)
    every = max(1, len(tensors) // _SAMPLED_TENSORS)
    for number, tensor in enumerate(tensors):
        digest.update(f"{tensor.name}\0{tensor.dtype}\0{tensor.shape}\n".encode())
        if number % every == 0:
            digest.update(tensor.sample())
    return digest.digest()


@dataclass(frozen=True, slots=True)
class _Tensor:
    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Bytes from the start of the file."""
    size: int

    def sample(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.begin + max(0, self.size - _SAMPLE_BYTES) // 2)
            return file.read(min(self.size, _SAMPLE_BYTES))


def _tensors(path: Path) -> list[_Tensor]:
    """The header of a safetensors file: 8 bytes of length, JSON, then the tensors' bytes."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return [
            _Tensor(
                path,
                name,
                entry["dtype"],
                tuple(entry["shape"]),
                8 + length + entry["data_offsets"][0],
                entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise WeightMismatch(f"{path} is not a safetensors file: {error}") from error
