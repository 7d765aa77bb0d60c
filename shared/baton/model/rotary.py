"""The table of cosines and sines that rotates queries and keys, made once per decoder.

Float32 throughout and in the order of operations of Hugging Face transformers, so that both agree to
the last bit: one unit in the last place of a frequency is an audible angle at position 100,000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baton.model.rope import Rope


def table(rope: Rope, head_dim: int, positions: int, device: torch.device) -> Tensor:
    """[positions, head_dim] float32: cos of every frequency, then sin."""
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies(rope, head_dim)
    joined = torch.cat((angles.cos(), angles.sin()), dim=-1)
    return joined.mul_(rope.attention_factor).to(device)


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """[head_dim / 2] float32: radians per position of each rotated pair."""
    periods = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.kind == "linear":
        return 1.0 / periods / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, 1.0 / periods)
    if rope.kind == "yarn":
        return _yarn(rope, head_dim, periods)
    return 1.0 / periods


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    """Long waves are stretched by the factor, short ones kept, those between blended."""
    wavelength = 2 * math.pi / plain
    span = rope.high_freq_factor - rope.low_freq_factor
    blend = (rope.original_len / wavelength - rope.low_freq_factor) / span
    blended = (1 - blend) * plain / rope.factor + blend * plain
    short = wavelength < rope.original_len / rope.high_freq_factor
    long = wavelength > rope.original_len / rope.low_freq_factor
    return torch.where(long, plain / rope.factor, torch.where(short, plain, blended))


def _yarn(rope: Rope, head_dim: int, periods: Tensor) -> Tensor:
    """Pairs that turn often are kept, those that turn seldom stretched, with a linear ramp between."""

    def pair_turning(times: float) -> float:
        return head_dim * math.log(rope.original_len / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_turning(rope.beta_fast), pair_turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    return 1.0 / (rope.factor * periods) * (1 - kept) + 1.0 / periods * kept
