"""What the sampler must know of a sequence that takes a row. Torch-free: the scheduler makes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.core.types import SamplingParams

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Fresh:
    """A sequence takes a row of the sampling state and of the token table."""

    row: int
    sampling: SamplingParams
    stops: tuple[int, ...]
    """Token ids that end it: impossible before `min_tokens`."""
    prompt: int
    """Length of the prompt."""
    tokens: Ints
    """The prompt and what was generated before now; empty when no penalty asks for it."""
    last: int
    """The last token, when the next step is a decode whose input the device does not have; else -1."""
