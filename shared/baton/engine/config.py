"""What an engine is told before it starts. Torch-free: the front process makes it, every rank reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from baton.core.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine's settings; the same on all its ranks."""

    model: str
    """Directory or hub id of a Hugging Face checkpoint."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights, activations and KV; auto is float32 on a CPU and bfloat16 on a GPU."""
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3"] = "auto"
    """auto keeps keys and values in the model's dtype; fp8 (or fp8_e4m3) in eight bits, with the scales that
    the checkpoint states for them, else with 1: beside 16 bits twice the tokens in a pool, and half the bytes
    to hand over and to read. Pods pair only where it is the same."""
    quantization: Literal["none", "fp8"] = "none"
    """fp8 keeps the layers' dense matrices in eight bits, a scale for each row, and rounds what they are
    multiplied with token by token; from checkpoints of either kind."""
    load_format: Literal["auto", "dummy"] = "auto"
    """auto reads the checkpoint's weights; dummy draws random ones from config.json alone."""
    tensor_parallel: int = 1
    """Ranks (processes, and GPUs on cuda) that share the model."""
    seed: int = 0
    """Of dummy weights."""
    tokenizer: str = ""
    """Directory or hub id of the tokenizer's files; none is model."""

    page_size: int = 16
    """Tokens a page of KV cache holds."""
    pages: int = 0
    """Pages in the pool; 0 takes memory_fraction of what is free."""
    memory_fraction: float = 0.0
    """Share of the device's free memory that the engine may take; 0 is 0.9 on a GPU and 0.2 on a CPU."""
    max_model_len: int = 0
    """Longest sequence, prompt and output together, in tokens; 0 is the model's own limit."""
    cache: str = "radix"
    """radix keeps finished pages for later prompts; naive keeps none."""
    eviction: str = "lru"
    """Which unlocked pages leave the radix cache first: lru or lfu."""

    max_running: int = 256
    """Sequences that may be decoded together."""
    max_queued: int = 4096
    """Sequences that may wait; more are refused."""
    prefill_budget: int = 16384
    """Most prompt tokens computed in one step; longer prompts are cut into chunks. 0 is no limit."""
    mixed: bool | Literal["auto"] = "auto"
    """Put prefill chunks and decodes into one step instead of running prefills first. With lof, steps are
    filled up to graph_max_batch tokens, and who has little left of its max_tokens gives way to prompts; auto
    does that alone, on GPUs that hold large weights, while nothing ends an answer before its max_tokens."""
    policy: str = "priority"
    """Order of the waiting queue: priority (within one the earliest deadline), fcfs, lof (the longest output
    first, by max_tokens), lpm (the longest cached prefix) or dfs-weight."""
    overlap: bool = True
    """Schedule step n + 1 and handle the output of n - 1 while step n computes."""

    attention: str = "auto"
    """Attention by phase: one name, or prefill and decode names with a comma. auto picks by device."""
    products: Literal["auto", "library"] = "auto"
    """Small batches' matrix products: auto measures our own kernel against the vendor's library for each
    shape (kept on disk), library uses that alone."""
    all_reduce: Literal["auto", "nccl", "peer"] = "auto"
    """Sums over the ranks of a model that is split over GPUs: auto sends small ones through the GPUs' own
    memory as far as that is measured to be faster, nccl none, peer all that fit."""
    graph_max_batch: int = 256
    """Largest decode batch that is captured as a CUDA graph, which short prompts go through too; 0 captures
    none."""
    graph_max_tokens: int = 2048
    """Most tokens of other steps, prompts above all, for which all but attention is captured as CUDA graphs;
    0 captures none."""
    profile: str = ""
    """Write a Chrome trace of some steps of rank 0 here, and a table of its kernels beside it."""
    profile_from: int = 300
    """First step that is recorded; 24 are."""
    handover: bool = False
    """Whether pages can be exchanged with other workers: registers the pool with the transport."""
    threads: int = 0
    """CPU threads of each rank; 0 is a share of the cores the container may use; on a GPU for reading the
    weights alone, then one."""

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise InvalidSetting(name, f"must be {rule}, not {getattr(self, name)!r}")

        need(self.device in ("cpu", "cuda"), "device", "cpu or cuda")
        need(
            self.dtype in ("auto", "float32", "bfloat16", "float16"),
            "dtype",
            "auto, float32, bfloat16 or float16",
        )
        need(
            self.kv_cache_dtype in ("auto", "fp8", "fp8_e4m3"),
            "kv_cache_dtype",
            "auto, fp8 or fp8_e4m3",
        )
        need(self.load_format in ("auto", "dummy"), "load_format", "auto or dummy")
        need(self.tensor_parallel in (1, 2, 4, 8, 16), "tensor_parallel", "1, 2, 4, 8 or 16")
        need(1 <= self.page_size <= 1024, "page_size", "between 1 and 1024")
        need(self.pages == 0 or self.pages >= 2, "pages", "0 (from free memory) or 2 and more")
        need(0.0 <= self.memory_fraction <= 1.0, "memory_fraction", "between 0 (by device) and 1")
        need(self.max_model_len >= 0, "max_model_len", "0 (the model's) or more")
        need(self.cache in ("radix", "naive"), "cache", "radix or naive")
        need(self.max_running >= 1, "max_running", "1 or more")
        need(self.max_queued >= 1, "max_queued", "1 or more")
        need(self.prefill_budget >= 0, "prefill_budget", "0 (no limit) or more")
        need(self.mixed == "auto" or isinstance(self.mixed, bool), "mixed", "true, false or auto")
        need(self.quantization in ("none", "fp8"), "quantization", "none or fp8")
        need(self.products in ("auto", "library"), "products", "auto or library")
        need(self.all_reduce in ("auto", "nccl", "peer"), "all_reduce", "auto, nccl or peer")
        need(self.all_reduce != "peer" or self.device == "cuda", "all_reduce", "auto or nccl on a CPU")
        need(self.graph_max_batch >= 0, "graph_max_batch", "0 (no graphs) or more")
        need(self.graph_max_tokens >= 0, "graph_max_tokens", "0 (no graphs) or more")
        need(self.threads >= 0, "threads", "0 (as many as are of use) or more")

    @property
    def kv_dtype(self) -> str:
        """What the pool holds, by torch's name; auto as long as `dtype` is."""
        return self.dtype if self.kv_cache_dtype == "auto" else "float8_e4m3fn"
