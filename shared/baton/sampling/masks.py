"""Which tokens the lines of a step may sample, where a grammar says so. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baton.sampling.fresh import Ints


@dataclass(frozen=True, slots=True)
class Masks:
    lines: Ints
    """[K], among those of the step that sample, in order."""
    bits: npt.NDArray[np.uint8]
    """[K, bytes]: a bit for each token, the first one's lowest; no padding but at the end."""
