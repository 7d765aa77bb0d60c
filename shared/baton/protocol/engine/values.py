"""What is told of requests and of an engine: values that travel in messages and beyond them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from baton.core.types import TokenLogprob


@dataclass(slots=True)
class Course:
    """What happened to a request since its last update."""

    marks: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    """What, and when by the monotonic clock of this host."""
    prefill: str = ""
    """The pod that computed the prompt, where another one did."""
    handed: int = 0
    """Bytes that were written into this pod."""


@dataclass(slots=True)
class Update:
    """News of one request for whoever asked for it."""

    id: str
    token: int | None = None
    finish: str | None = None
    """The value of a `Finish`."""
    logprob: TokenLogprob | None = None
    cached: int | None = None
    """Prompt tokens found in the cache; with the first token only."""
    scores: tuple[TokenLogprob, ...] | None = None
    """Log-probabilities of the prompt, from its second token on; with the first token."""
    error: str | None = None
    """Why it was refused or failed; `code` names the kind."""
    code: str | None = None
    field: str | None = None
    """The request's field at fault."""
    course: Course | None = None
    """When something happened besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine turned out to be, once it is ready."""

    pages: int
    """Pages that sequences can hold."""
    page_size: int
    page_bytes: int
    max_model_len: int
    vocab: int
    eos: tuple[int, ...]
    device: str
    dtype: str
    kv_dtype: str = ""
    """What the pool holds, where it is not `dtype`."""
    attention: str
    tensor_parallel: int
    all_reduce: str = ""
    """How its ranks sum; empty for one."""
    fingerprint: bytes
    """Of everything that decides what a page of KV contains."""
    ranks: tuple[bytes, ...] = ()
    """How other workers' ranks reach each of ours (`baton.transfer.PeerInfo`, encoded); empty when the
    engine was started without hand-over."""
    seconds: float
    """From the process's start to ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy an engine is."""

    waiting: int
    prefilling: int
    running: int
    pages_free: int
    pages_cached: int
    """Pages in the prefix cache, locked or not."""
    pages_evictable: int
    pages_total: int
    pages_fenced: int = 0
    """Pages that a writer which was given up might still write."""
    retractions: int
    steps: int
    prefill_tokens_queued: int = 0
    """Prompt tokens that are still to be computed here, of admitted prompts and of those that wait; what the
    cache will be found to hold of the latter is in it."""
    prefill_tokens_per_s: float = 0.0
    """Measured over the last steps that computed prompts; 0 before the first."""
    decode_step_ms: float = 0.0
    """Median of the last steps that only decoded; 0 before the first."""
