"""The engine library: `LLM` and `AsyncLLM` run a model; the rest is for the services.

Importing this package does not import torch: only the engine's own processes do.
"""

from baton.core.types import SamplingParams
from baton.engine.config import EngineConfig
from baton.engine.llm import LLM, AsyncLLM, Output

__all__ = ["LLM", "AsyncLLM", "EngineConfig", "Output", "SamplingParams"]
