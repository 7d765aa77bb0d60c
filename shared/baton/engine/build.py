"""Puts one rank's engine together from its spec: ranks, weights, pool, attention, runner, scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from baton.attention.base import UNSCALED, Scales
from baton.attention.choose import Need, choose_attention
from baton.cache import make_cache
from baton.cache.pages import PageAllocator
from baton.cache.pool import PoolShape, fit_memory, fit_pages, make_pool
from baton.core.cores import usable
from baton.core.errors import InvalidSetting
from baton.engine.config import EngineConfig
from baton.engine.holdings import Holdings
from baton.engine.limits import Limits, Mixing
from baton.engine.policy import policy_named
from baton.engine.rehearsal import enough_memory_for, step_bytes
from baton.engine.runner import Runner
from baton.engine.scheduler import Scheduler
from baton.engine.spec import RankSpec
from baton.grammar.matcher import Grammars
from baton.kernels.choose import choose_kernels
from baton.model.config import ModelConfig
from baton.model.decoder import Decoder, load
from baton.model.scales import read_scales
from baton.model.source import locate
from baton.parallel import Ranks, join_ranks
from baton.protocol.engine import EngineFacts
from baton.tokens import Tokenizer
from baton.transfer import Agent, PoolLayout, allocate

Progress = Callable[[str, float], None]

DTYPES = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
}  # fmt: skip
EIGHT_BITS_FROM = (8, 9)
"""Compute capability whose instructions round to eight bits."""


GPU_SHARE = 0.95
"""Of the device's free memory that weights leave; what steps need is measured and comes out of it first."""
CPU_SHARE = 0.2
"""Of the free memory: a laptop has other work, and several workers may share it."""
FILLED = 256
"""Lines that mixed steps are filled up to where no graphs bound them."""
HEAVY = 6 << 30
"""Bytes of weights from which on steps are better filled up: reading them pays for computing more besides."""
CPU_POOL_BYTES = 1 << 30
"""Largest pool that is taken unasked on a CPU: the transport registers all of it, which touches it."""


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
    all_reduce: str
    """How the ranks sum; empty for one."""
    agent: Agent | None = None
    """Present when the engine hands pages over."""
    layouts: tuple[PoolLayout, ...] = ()
    """Of all ranks."""

    def facts(self, seconds: float, ranks: tuple[bytes, ...] = ()) -> EngineFacts:
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
            all_reduce=self.all_reduce,
            kv_dtype="" if self.config.kv_dtype == self.config.dtype else self.config.kv_dtype,
            fingerprint=self.runner.decoder.config.fingerprint(self.config.dtype, self.config.kv_dtype),
            ranks=ranks,
            seconds=seconds,
        )


def build(spec: RankSpec, progress: Progress) -> Built:
    device = _device(spec.config, spec.rank)
    directory = locate(spec.config.model, weights=spec.config.load_format != "dummy")
    model = ModelConfig.read(directory, spec.config.load_format, spec.config.seed)
    config = _settle(spec.config, model)
    dtype, kv_dtype = DTYPES[config.dtype], DTYPES[config.kv_dtype]
    if config.quantization != "none":  # other KV than the checkpoint's own
        model = replace(model, weights=model.weights + config.quantization.encode())
    scales: tuple[Scales, ...] = (UNSCALED,) * model.layers
    if kv_dtype != dtype:
        _require_eight_bits(device)
        scales = read_scales(directory, model.layers, config.load_format)
        model = replace(model, weights=model.weights + repr(scales).encode())
    ranks = join_ranks(
        spec.rank, config.tensor_parallel, f"file://{spec.rendezvous}", device, all_reduce=config.all_reduce
    )
    grammars = _grammars(config, model)
    if spec.rank == 0:
        grammars.warm()
    progress("weights", 0.0)
    with enough_memory_for("the weights", "tensor_parallel", "raise it, or set quantization to fp8"):
        decoder = load(
            model, directory, ranks, device, dtype, config.load_format, choose_kernels(device),
            seed=config.seed, most_rows=config.max_running if config.products == "auto" else 0,
            quantization=config.quantization, scales=scales,
        )  # fmt: skip
    progress("weights", 1.0)
    if device.type == "cuda" and not config.threads:
        # What is left for the CPU is too small to be shared out, and threads that wait take from others.
        torch.set_num_threads(1)
    weights = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    need = partial(_need, config, model, ranks, scales)
    shape = _pool_shape(config, model, ranks, decoder, device, need)
    longest = min(config.max_model_len or model.max_model_len, (shape.pages - 1) * shape.page_size)
    layouts = _layouts(config, model, shape, ranks.size) if config.handover else ()
    advice = "lower it, pages, graph_max_batch or graph_max_tokens"
    with enough_memory_for("the pool and graphs", "memory_fraction", advice):
        memory = allocate(layouts[ranks.rank].bytes, _name(device)) if layouts else None
        pool = make_pool(shape, device, kv_dtype, memory.tensor if memory else None)
        attention, name = choose_attention(config.attention, need(pool))
        runner = Runner(
            decoder, attention, pool, max_running=config.max_running, max_model_len=longest,
            graph_max_batch=config.graph_max_batch, graph_max_tokens=config.graph_max_tokens,
            usual_tokens=_usual_tokens(config),
            progress=lambda done: progress("graphs", done),
        )  # fmt: skip
    scheduler = _scheduler(config, _mixing(config, weights), model, shape, longest, grammars)
    agent = Agent(layouts[ranks.rank], memory.region, rank=ranks.rank) if memory else None
    return Built(
        config, scheduler, runner, shape, model.eos_token_ids, name, ranks.all_reduce, agent, layouts
    )


def _usual_tokens(config: EngineConfig) -> int:
    """What mixed steps take that no graph of decodes has room for."""
    return config.prefill_budget if config.mixed is True and not policy_named(config.policy).gives_way else 0


def _mixing(config: EngineConfig, weights: int) -> Mixing:
    """`weights`: bytes of them on a GPU."""
    if config.mixed == "auto":
        filled = policy_named(config.policy).gives_way and weights >= HEAVY
        return Mixing.KNOWN if filled else Mixing.NEVER
    return Mixing.ALWAYS if config.mixed else Mixing.NEVER


def _need(
    config: EngineConfig, model: ModelConfig, ranks: Ranks, scales: tuple[Scales, ...], pool: torch.Tensor
) -> Need:
    kv_heads = len(model.kv_heads_of(ranks.rank, ranks.size))
    return Need(
        pool, model.heads // ranks.size, kv_heads, model.scale, model.windows, config.max_running,
        DTYPES[config.dtype], scales,
    )  # fmt: skip


def _require_eight_bits(device: torch.device) -> None:
    if device.type == "cuda" and (has := torch.cuda.get_device_capability(device)) < EIGHT_BITS_FROM:
        raise InvalidSetting(
            "kv_cache_dtype",
            f"fp8 needs a GPU of compute capability 8.9 (Ada, Hopper) or newer, and this one has "
            f"{has[0]}.{has[1]}: set it to auto",
        )


def _name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"cuda:{device.index}"


def _layouts(
    config: EngineConfig, model: ModelConfig, shape: PoolShape, ranks: int
) -> tuple[PoolLayout, ...]:
    """Every rank's pool, as other workers see it."""
    fingerprint = model.fingerprint(config.dtype, config.kv_dtype).hex()
    held = [model.kv_heads_of(rank, ranks) for rank in range(ranks)]
    return tuple(
        PoolLayout(
            pages=shape.pages, layers=shape.layers, page_size=shape.page_size, head_dim=shape.head_dim,
            dtype=config.kv_dtype, kv_heads=len(heads), first_kv_head=heads.start,
            total_kv_heads=model.kv_heads, model=fingerprint,
        )
        for heads in held
    )  # fmt: skip


def _settle(config: EngineConfig, model: ModelConfig) -> EngineConfig:
    """The settings with every automatic choice made."""
    cpu = config.device == "cpu"
    if config.dtype == "auto":
        config = replace(
            config, dtype="float32" if cpu else "float16" if model.dtype == "float16" else "bfloat16"
        )
    if config.memory_fraction == 0.0:
        config = replace(config, memory_fraction=CPU_SHARE if cpu else GPU_SHARE)
    if config.max_model_len > model.max_model_len:
        raise InvalidSetting(
            "max_model_len", f"is {config.max_model_len}; the model's limit is {model.max_model_len}"
        )
    torch.set_num_threads(config.threads or max(1, usable() // config.tensor_parallel))
    return config


def _device(config: EngineConfig, rank: int) -> torch.device:
    if config.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InvalidSetting(
            "device", "is cuda, but torch finds no CUDA device; use --device cpu or fix the driver"
        )
    if torch.cuda.device_count() < config.tensor_parallel:
        raise InvalidSetting(
            "tensor_parallel",
            f"is {config.tensor_parallel}, but {torch.cuda.device_count()} CUDA devices are visible",
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _pool_shape(
    config: EngineConfig, model: ModelConfig, ranks: Ranks, decoder: Decoder, device: torch.device,
    need: Callable[[torch.Tensor], Need],
) -> PoolShape:  # fmt: skip
    """The pool of one rank: the same number of pages on all, the least that any has room for."""
    shape = PoolShape(
        kv_heads=len(model.kv_heads_of(ranks.rank, ranks.size)),
        layers=model.layers,
        page_size=config.page_size,
        head_dim=model.head_dim,
        itemsize=DTYPES[config.kv_dtype].itemsize,
    )
    least = config.max_model_len or config.page_size
    if config.pages:
        return fit_pages(shape, config.pages, max_model_len=least, setting="pages")
    fraction = config.memory_fraction if device.type == "cuda" else config.memory_fraction / ranks.size
    reserved = _step_bytes(config, model, decoder, shape, device, need) if device.type == "cuda" else 0
    shape = fit_memory(shape, device, fraction, reserved=reserved, max_model_len=least)
    if device.type == "cpu" and config.memory_fraction == CPU_SHARE:
        enough = max(CPU_POOL_BYTES // ranks.size // shape.page_bytes, shape.pages_for(least) + 1)
        shape = replace(shape, pages=min(shape.pages, enough))
    pages = ranks.join(torch.tensor([[shape.pages]], dtype=torch.int32, device=device)).min()
    return replace(shape, pages=int(pages))


def _step_bytes(
    config: EngineConfig, model: ModelConfig, decoder: Decoder, shape: PoolShape, device: torch.device,
    need: Callable[[torch.Tensor], Need],
) -> int:  # fmt: skip
    """What steps take beside weights and pool."""
    longest = config.max_model_len or model.max_model_len
    dtype = DTYPES[config.kv_dtype]
    advice = "lower it, graph_max_batch or graph_max_tokens"
    with enough_memory_for("the largest step", "prefill_budget", advice):
        return step_bytes(
            decoder, lambda pool: choose_attention(config.attention, need(pool))[0],
            lambda pages: make_pool(replace(shape, pages=pages), device, dtype),
            tokens=config.prefill_budget or longest, longest=longest, page_size=config.page_size,
            max_running=config.max_running, graph_max_batch=config.graph_max_batch,
            graph_max_tokens=config.graph_max_tokens,
        )  # fmt: skip


def _grammars(config: EngineConfig, model: ModelConfig) -> Grammars:
    source = config.tokenizer or config.model
    return Grammars(lambda: Tokenizer.load(source), model.vocab_size, model.eos_token_ids)


def _scheduler(
    config: EngineConfig, mixing: Mixing, model: ModelConfig, shape: PoolShape, longest: int,
    grammars: Grammars,
) -> Scheduler:  # fmt: skip
    limits = Limits(
        max_model_len=longest, max_running=config.max_running, max_queued=config.max_queued,
        prefill_budget=config.prefill_budget, mixing=mixing, vocab=model.vocab_size,
        eos=frozenset(model.eos_token_ids), lines=min(config.graph_max_batch or FILLED, config.max_running),
    )  # fmt: skip
    cache = make_cache(config.cache, policy=config.eviction)
    return Scheduler(
        limits, Holdings(PageAllocator(shape.pages), cache, shape.page_size), policy_named(config.policy),
        grammars=grammars,
    )  # fmt: skip
