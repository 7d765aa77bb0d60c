"""Model definitions. This package's front is torch-free; `baton.model.decoder` has `Decoder` and `load`."""

from baton.model.config import DTYPE_BYTES, Experts, ModelConfig
from baton.model.rope import Rope
from baton.model.source import locate

__all__ = ["DTYPE_BYTES", "Experts", "ModelConfig", "Rope", "locate"]
