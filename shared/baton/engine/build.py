"""Puts one rank's engine together from its spec: ranks, weights, pool, attention, runner, scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from baton.attention.choose import choose_attention
from baton.cache import make_cache
from baton.cache.pages import PageAllocator
from baton.cache.pool import PoolShape, make_pool, pages_for_memory
from baton.core.errors import InvalidSetting
from baton.engine.config import EngineConfig
from baton.engine.holdings import Holdings
from baton.engine.policy import policy_named
from baton.engine.runner import Runner
from baton.engine.scheduler import Limits, Scheduler
from baton.engine.spec import RankSpec
from baton.kernels.choose import choose_kernels
from baton.model.config import ModelConfig
from baton.model.decoder import Decoder
from baton.model.source import resolve
from baton.parallel import make_ranks
from baton.protocol.engine import EngineFacts

Progress = Callable[[str, float], None]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Built:
    """One rank, ready to run."""

    config: EngineConfig
    scheduler: Scheduler
    """Used on rank 0 alone."""
    runner: Runner
    shape: PoolShape
    eos: tuple[int, ...]
    attention: str

    def facts(self, seconds: float) -> EngineFacts:
        limits = self.scheduler.limits
        return EngineFacts(
            pages=self.shape.pages - 1,
            page_size=self.shape.page_size,
            page_bytes=self.shape.page_bytes * self.config.tensor_parallel,
            max_model_len=limits.max_model_len,
            vocab=limits.vocab,
            eos=self.eos,
            device=self.config.device,
            dtype=self.config.dtype,
            attention=self.attention,
            tensor_parallel=self.config.tensor_parallel,
            fingerprint=self.runner.decoder.config.fingerprint(),
            seconds=seconds,
        )


def build(spec: RankSpec, progress: Progress) -> Built:
    config = _settle(spec.config)
    device = _device(config, spec.rank)
    directory = resolve(config.model)
    model = ModelConfig.read(directory)
    ranks = make_ranks(spec.rank, config.tensor_parallel, device, spec.rendezvous)
    kernels = choose_kernels(device)
    decoder = Decoder.load(
        model, directory, ranks, device, DTYPES[config.dtype], config.load_format, kernels,
        seed=config.seed, progress=lambda done: progress("weights", done),
    )  # fmt: skip
    longest = min(config.max_model_len or model.max_model_len, model.max_model_len)
    shape = _pool_shape(config, model, decoder, device, longest)
    longest = min(longest, (shape.pages - 1) * shape.page_size)
    pool = make_pool(shape, device, DTYPES[config.dtype])
    attention, name = choose_attention(config.attention, pool, model, decoder, config.max_running)
    runner = Runner(decoder, attention, pool, max_running=config.max_running, max_model_len=longest)
    return Built(config, _scheduler(config, model, shape, longest), runner, shape, tuple(sorted(model.eos)), name)


def _settle(config: EngineConfig) -> EngineConfig:
    if config.dtype == "auto":
        config = replace(config, dtype="float32" if config.device == "cpu" else "bfloat16")
    threads = config.threads or max(1, (os.cpu_count() or 1) // config.tensor_parallel)
    torch.set_num_threads(threads)
    return config


def _device(config: EngineConfig, rank: int) -> torch.device:
    if config.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InvalidSetting("device", "is cuda, but torch finds no CUDA device; use --device cpu or fix the driver")
    if torch.cuda.device_count() < config.tensor_parallel:
        raise InvalidSetting(
            "tensor_parallel", f"is {config.tensor_parallel}, but {torch.cuda.device_count()} CUDA devices are visible"
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _pool_shape(
    config: EngineConfig, model: ModelConfig, decoder: Decoder, device: torch.device, longest: int
) -> PoolShape:
    shape = PoolShape(
        pages=2, kv_heads=decoder.kv_heads, layers=model.layers, page_size=config.page_size,
        head_dim=model.head_dim, itemsize=DTYPES[config.dtype].itemsize,
    )  # fmt: skip
    pages = config.pages + 1 if config.pages else pages_for_memory(shape, device, config.memory_fraction, longest)
    return replace(shape, pages=pages)


def _scheduler(config: EngineConfig, model: ModelConfig, shape: PoolShape, longest: int) -> Scheduler:
    limits = Limits(
        max_model_len=longest, max_running=config.max_running, max_queued=config.max_queued,
        prefill_budget=config.prefill_budget, mixed=config.mixed, vocab=model.vocab_size, eos=frozenset(model.eos),
    )  # fmt: skip
    cache = make_cache(config.cache, policy=config.eviction)
    return Scheduler(limits, Holdings(PageAllocator(shape.pages), cache, shape.page_size), policy_named(config.policy))
