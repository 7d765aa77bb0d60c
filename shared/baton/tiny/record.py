"""What a training run leaves beside its weights, so that anyone can see whether the script still makes them.

`train` writes `training.json` at the end of a run; `train --check` and the tests hold it against
the files and against the first steps of a new run. Nothing that serves the model reads it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch

NAME = "training.json"
FIRST = 50
"""Steps whose losses are kept. They follow from the text, the tokenizer, the initial weights and the
optimizers, so a change of any of these shows in them."""

NEAR = 0.03
"""How far, in parts of it, a loss may lie from the recorded one on another kind of processor."""


@dataclass(frozen=True, slots=True)
class Record:
    seed: int
    steps: int
    seconds: int
    made_with: dict[str, str]
    first_losses: list[float]
    """JSON keeps every bit of them."""
    sha256: dict[str, str]
    """Of each file of the folder."""


def surroundings() -> dict[str, str]:
    """What the bits depend on, beside the code."""
    return {
        "torch": torch.__version__.split("+")[0],
        "tokenizers": tokenizers.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        + (" AMX" if "amx_bf16" in _flags() else ""),
    }


def _flags() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != NAME
    }


def write(record: Record, folder: Path) -> None:
    (folder / NAME).write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Record:
    return Record(**json.loads((folder / NAME).read_text(encoding="utf-8")))


def complaint(record: Record, losses: list[float]) -> str:
    """Why the losses are not the recorded ones; "" when they are, or when another processor explains it."""
    wanted = record.first_losses[: len(losses)]
    if losses == wanted:
        return ""
    step = next(i for i, pair in enumerate(zip(losses, wanted, strict=True)) if pair[0] != pair[1])
    told = f"step {step + 1} has loss {losses[step]!r}, recorded is {wanted[step]!r}"
    if surroundings() == record.made_with:
        return told
    far = [i for i, loss in enumerate(losses) if abs(loss - wanted[i]) > NEAR * wanted[i]]
    return f"{told}; step {far[0] + 1} is too far off for rounding" if far else ""
