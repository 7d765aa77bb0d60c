"""The noise that makes sampling reproducible: Gumbel values from a counter, not from a generator.

The noise of one vocabulary entry depends on (seed of the row, position of the token, entry) alone, so a
sequence draws the same tokens whatever shares its batch, whichever worker runs it, and however often a
step is repeated. `argmax(logits / temperature + gumbel)` is a draw from the softmax. This module is the
definition, in integer arithmetic that any device repeats exactly; `fused` computes the same inside a
kernel. Called by the sampler and by tests. Changing a constant here changes every seeded answer.

Every entry's bits come from one pass of a 32-bit avalanche (xor-shift, multiply, twice) over a counter
spread by the golden ratio. Its two keys, one added before and one mixed in between the multiplications,
are 64 bits derived by full avalanches from seed and position: two rows share their bits only when both
keys agree. Measured on 2**24 values: bits unbiased, chi-square and serial, row and position correlations
within what chance allows (tests/sampling/test_noise.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
SPREAD = 0x9E3779B1
"""2**32 over the golden ratio, made odd: neighbouring entries become distant counters."""
FIRST = 0x7FEB352D
SECOND = 0x846CA68B
"""The multipliers of the avalanche."""
LANES = (0x3C6EF372, 0xDAA66D2B, 0x78DDE6E4, 0x1715609D)
"""What tells the four derivations of a row's keys apart."""
SMALL = 2.0**-7
"""Below this, -log(1 - v) is summed as a series: 1 - v would round the small values away, and the
smallest decide the draw."""


def avalanche(h: Tensor) -> Tensor:
    """Every bit of h [...] (int64 holding 32 bits) spread over all 32."""
    h = ((h ^ (h >> 16)) * FIRST) & MASK
    h = ((h ^ (h >> 15)) * SECOND) & MASK
    return h ^ (h >> 16)


def keys(seeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Two 32-bit keys for each row, from seeds [M] int64 and positions [M] int32."""
    low, high = seeds & MASK, (seeds >> 32) & MASK
    place = positions.to(torch.int64) & MASK
    first = avalanche(low ^ avalanche((high + LANES[0]) & MASK))
    second = avalanche(high ^ avalanche((low + LANES[1]) & MASK))
    return (
        avalanche(first ^ avalanche((place + LANES[2]) & MASK)),
        avalanche(second ^ avalanche((place + LANES[3]) & MASK)),
    )


def random_bits(seeds: Tensor, positions: Tensor, vocab: int) -> Tensor:
    """[M, vocab] int64: 32 random bits each."""
    before, between = (key[:, None] for key in keys(seeds, positions))
    entry = torch.arange(vocab, dtype=torch.int64, device=seeds.device)
    h = (entry * SPREAD + before) & MASK
    h = ((h ^ (h >> 16)) * FIRST) & MASK
    h = ((h ^ (h >> 15) ^ between) * SECOND) & MASK
    return h ^ (h >> 16)


def gumbel(seeds: Tensor, positions: Tensor, vocab: int, device: torch.device | str | None = None) -> Tensor:
    """Standard Gumbel noise of every vocabulary entry.

    seeds [M] int64, positions [M] int32 → [M, vocab] float32 on `device` (that of the seeds by default).
    Always finite.
    """
    if device is not None:
        seeds, positions = seeds.to(device), positions.to(device)
    bits = random_bits(seeds, positions, vocab).to(torch.float32)
    v = torch.clamp((bits + 0.5) * 2.0**-32, max=1.0 - 2.0**-24)
    series = v * (1.0 + v * (1.0 / 2 + v * (1.0 / 3 + v * (1.0 / 4))))
    exponential = torch.where(v < SMALL, series, -torch.log(1.0 - v))
    return -torch.log(exponential)
