"""Which lines of logits a step samples from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from baton.sampling.fresh import Ints
from baton.sampling.rows import send


@dataclass(frozen=True, slots=True)
class Places:
    """Which row each logit line belongs to and which position its token will take, on both sides."""

    rows: Tensor
    """[M] int32 on the device."""
    positions: Tensor
    """[M] int32 on the device: index of the token to be sampled."""
    host_rows: Ints
    host_positions: Ints

    def some(self, lines: npt.NDArray[np.int64]) -> tuple[Places, Tensor]:
        """Those of some lines, and the lines on the device."""
        at = send(lines, self.rows.device)
        return (
            Places(self.rows[at], self.positions[at], self.host_rows[lines], self.host_positions[lines]),
            at,
        )
