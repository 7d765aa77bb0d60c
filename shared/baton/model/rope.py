"""Rotary position settings, as a checkpoint's config.json states them.

Newer checkpoints write `rope_parameters`, older ones `rope_theta` and `rope_scaling`; both are read.
Torch-free and pure; `rotary.py` turns the settings into the table that the kernels use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baton.core.errors import InvalidSetting, UnsupportedModel

KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """One way to turn a position into rotation angles."""

    kind: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    """How many times longer than trained the usable length is."""
    original_len: int = 0
    """Length before stretching, in tokens; `llama3` and `yarn` only."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    """cos and sin are multiplied by it; `yarn` only."""


_COMMON = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings"}
_KNOWN = {
    "default": _COMMON,
    "linear": _COMMON,
    "llama3": _COMMON | {"low_freq_factor", "high_freq_factor"},
    "yarn": _COMMON | {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
}


def read_rope(raw: Mapping[str, Any], max_position_embeddings: int) -> Rope:
    """The rope settings of a config.json; raises UnsupportedModel for what is not computed here."""
    stated = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(stated, Mapping):
        raise InvalidSetting("config.json: rope_scaling", f"must be an object, not {stated!r}")
    given = dict(stated)
    if any(isinstance(value, Mapping) for value in given.values()):
        raise UnsupportedModel(f"rope settings that differ between layers are not supported: {given}")
    kind = str(given.get("rope_type") or given.get("type") or "default")
    if kind not in KINDS:
        raise UnsupportedModel(f"rope type {kind!r} is not supported; supported: {', '.join(KINDS)}")
    partial = given.pop("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise UnsupportedModel(f"partial_rotary_factor = {partial} is not supported (only 1)")
    unknown = sorted(key for key in given.keys() - _KNOWN[kind] if given[key] is not None)
    if unknown:
        raise UnsupportedModel(f"rope type {kind!r} with {', '.join(unknown)} is not supported")
    theta = positive("rope_theta", given.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    if kind == "default":
        return Rope(theta=theta)
    if not given.get("factor"):
        raise UnsupportedModel(f"rope type {kind!r} without a factor is not supported")
    factor = positive("factor", given["factor"])
    if kind == "linear":
        return Rope(kind=kind, theta=theta, factor=factor)
    original = int(
        positive(
            "original_max_position_embeddings",
            raw.get("original_max_position_embeddings")
            or given.get("original_max_position_embeddings")
            or max_position_embeddings,
        )
    )
    if kind == "llama3":
        missing = [key for key in ("low_freq_factor", "high_freq_factor") if given.get(key) is None]
        if missing:
            raise UnsupportedModel(f"rope type 'llama3' without {', '.join(missing)} is not supported")
        return Rope(
            kind=kind,
            theta=theta,
            factor=factor,
            original_len=original,
            low_freq_factor=positive("low_freq_factor", given["low_freq_factor"]),
            high_freq_factor=positive("high_freq_factor", given["high_freq_factor"]),
        )
    return Rope(
        kind=kind,
        theta=theta,
        factor=factor,
        original_len=original,
        beta_fast=positive("beta_fast", given.get("beta_fast") or 32.0),
        beta_slow=positive("beta_slow", given.get("beta_slow") or 1.0),
        truncate=bool(given.get("truncate", True)),
        attention_factor=_yarn_attention_factor(given, factor),
    )


def positive(key: str, value: Any) -> float:
    """The number that config.json gives for a key."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidSetting(f"config.json: {key}", f"must be a number above 0, not {value!r}")
    return float(value)


def _yarn_attention_factor(given: Mapping[str, Any], factor: float) -> float:
    stated = given.get("attention_factor")
    if stated is not None:
        return positive("attention_factor", stated)

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    numerator, denominator = given.get("mscale"), given.get("mscale_all_dim")
    if numerator and denominator:
        return magnitude(positive("mscale", numerator)) / magnitude(positive("mscale_all_dim", denominator))
    return magnitude(1.0)
