"""transformers with keys and values as a pool of eight bits keeps them: what such an engine must say.

A cache that rounds what it is given, after rotation, before anybody attends to it: the tokens of the same
pass too. Written apart from the package's own rounding, which it is there to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

LARGEST = 448.0


def eight_bits(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Every number's nearest in float8_e4m3fn times the scale, found among all there are; the even of two."""
    numbers = torch.arange(256, dtype=torch.uint8, device=x.device).view(torch.float8_e4m3fn).float()
    ladder = numbers[:0x7F]  # the positive ones rise with their code; the last is no number
    size = (x.float().abs() / scale).clamp(max=LARGEST)
    above = torch.searchsorted(ladder, size.flatten()).clamp(max=len(ladder) - 1)
    below = (above - 1).clamp(min=0)
    up, down = ladder[above] - size.flatten(), size.flatten() - ladder[below]
    nearest = torch.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return (ladder[nearest].view(x.shape) * scale).copysign(x.float()).to(x.dtype)


class RoundingCache(DynamicCache):
    def __init__(self, config: Any, scales: Sequence[tuple[float, float]] = ()) -> None:
        super().__init__(config=config)
        self._scales = scales

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        k, v = self._scales[layer_idx] if self._scales else (1.0, 1.0)
        rounded = eight_bits(key_states, k), eight_bits(value_states, v)
        both: tuple[torch.Tensor, torch.Tensor] = super().update(*rounded, layer_idx, *args, **kwargs)
        return both


def greedy(
    model: Any, prompt: Sequence[int], count: int, scales: Sequence[tuple[float, float]] = ()
) -> list[int]:
    ids, cache, tokens = torch.tensor([list(prompt)]), RoundingCache(model.config, scales), []
    with torch.inference_mode():
        for _ in range(count):
            ids = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            tokens.append(int(ids))
    return tokens


def logits(model: Any, prompt: Sequence[int], scales: Sequence[tuple[float, float]] = ()) -> torch.Tensor:
    """[len(prompt), vocab] of the whole prompt in one go."""
    with torch.inference_mode():
        cache = RoundingCache(model.config, scales)
        found: torch.Tensor = model(torch.tensor([list(prompt)]), past_key_values=cache).logits[0]
    return found
