"""The scales that a checkpoint states for keys and values kept in eight bits: one of each for a layer.

Read while an engine with such a pool starts; nothing else asks for them. Checkpoints name them in the ways
of compressed-tensors (`self_attn.k_scale`), ModelOpt (`self_attn.k_proj.k_scale`), older llm-compressor
(`self_attn.k_proj.output_scale`) and AutoFP8 (`self_attn.kv_scale`, for both). What is not stated is 1.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from baton.attention.base import Scales
from baton.core.errors import WeightMismatch
from baton.model.files import weight_files

_NAME = re.compile(
    r"model\.layers\.(?P<layer>\d+)\.self_attn\."
    r"(?:(?P<plain>[kv])_scale|(?P<nested>[kv])_proj\.(?:(?P=nested)_scale|output_scale)|kv_scale)"
)


def read_scales(directory: Path, layers: int, load_format: str = "auto") -> tuple[Scales, ...]:
    """[layers]. Raises WeightMismatch where a scale is none that can be divided by, or one of many."""
    stated: dict[tuple[int, str], float] = {}
    for path in weight_files(directory) if load_format != "dummy" else []:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118  # it is no mapping
                    if (found := _NAME.fullmatch(name)) is not None:
                        which = found["plain"] or found["nested"] or "kv"
                        value = _number(name, file.get_tensor(name).flatten().tolist())
                        stated |= {(int(found["layer"]), one): value for one in which}
        except (SafetensorError, OSError) as error:
            raise WeightMismatch(f"{path} cannot be read: {error}") from error
    return tuple(Scales(stated.get((i, "k"), 1.0), stated.get((i, "v"), 1.0)) for i in range(layers))


def _number(name: str, values: list[float]) -> float:
    if len(values) != 1:
        raise WeightMismatch(
            f"{name} has {len(values)} numbers; one for a layer is served: set kv_cache_dtype to auto"
        )
    if not (math.isfinite(values[0]) and values[0] > 0):
        raise WeightMismatch(
            f"{name} is {values[0]}, and must be a number above 0: set kv_cache_dtype to auto"
        )
    return float(values[0])
