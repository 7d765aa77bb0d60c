"""The model that ships with Baton: a few megabytes, Qwen3 architecture, made by this package.

The demo, the quick start and the tests serve it through the same code as any other model. Whoever
needs its folder calls `model_path`. Nothing here is imported by the router or the engine, and
importing this package loads no library: training lives in `baton.tiny.train`.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["model_path"]


def model_path() -> Path:
    """The folder with config.json, model.safetensors and the tokenizer, in Hugging Face's layout.

    Wheels of this project are always unpacked, so the resource is a real folder.
    """
    return Path(str(files("baton.tiny").joinpath("weights")))
