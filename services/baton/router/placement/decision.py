"""What comes of placing a request: where it goes and why, or why nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why nobody takes a request."""

    NO_DECODE = "no_decode"
    """No decode or unified worker lives, takes work and has not failed this request."""
    NO_PREFILL = "no_prefill"
    """Nobody computes the prompt: no prefill worker of the decode workers' layout and generation."""
    NO_PAGES = "no_pages"
    """Every pool is full, and none has room soon enough."""
    TOO_LONG = "too_long"
    """No worker could ever hold it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: Reason
    message: str
    retry_after_s: float = 1.0
    """When it may be worth another try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve a request, and what it is expected to cost, in seconds. `cost_s` is the sum of all
    parts; policies that do not weigh costs have candidates whose cost is an order alone."""

    decode: str
    prefill: str = ""
    """Empty: the decode worker computes the prompt itself."""
    cost_s: float = 0.0
    pages_s: float = 0.0
    """Until the decode worker has pages and attends to it."""
    queue_s: float = 0.0
    """Until prompts before it are computed."""
    read_s: float = 0.0
    """Until the prefix is read out of another worker's pool."""
    compute_s: float = 0.0
    handoff_s: float = 0.0
    """What asking another worker takes."""
    move_s: float = 0.0
    """Moving pages, as far as computing does not hide it. The first token does not wait for it."""
    stall_s: float = 0.0
    """What it costs those who are being served there, weighed (`stall_share`)."""
    later_s: float = 0.0
    """What it costs those who come later, weighed (`busy_share`)."""
    spread_s: float = 0.0
    """Up to how far the estimate may be off, and another for each worker and prompt (`spread_share`)."""
    penalty_s: float = 0.0
    """Its workers failed lately."""
    cached_tokens: int = 0
    """Prompt tokens that need not be computed."""

    @property
    def ttft_s(self) -> float:
        """When the first token is expected."""
        return self.pages_s + self.queue_s + self.read_s + self.compute_s + self.handoff_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    decode: str
    """The worker that owns the request."""
    prefill: tuple[str, ...] = ()
    """Who is to compute the prompt, best first; empty: the decode worker itself."""
    computes: str
    """Whoever of them is to compute it: the first prefill worker, or the decode worker."""
    computed_tokens: int
    """Prompt tokens that it has to compute: what is held on it, in flight, until the first token."""
    predicted_ttft_s: float
    slowness: float = 1.0
    """How many times longer than it claims whoever computes was taken to need."""
    cached_decode: int = 0
    """Prompt tokens cached at the decode worker, as far as the index knows."""
    cached_prefill: int = 0
    lender: str | None = None
    """The worker out of whose pool whoever computes had better read the prefix; empty for nobody, None when
    the policy does not weigh it."""
    gain_s: float = 0.0
    """What computing elsewhere is expected to save against the best decode worker doing it itself, all
    things weighed; 0 when that is what was chosen, or not possible."""
    gain_ttft_s: float = 0.0
    """The same of the first token alone: below 0 when that was given up for what others would suffer."""
    candidates: tuple[Candidate, ...] = ()
    """The best, cheapest first within what counts as equal; the chosen one is the first."""

    @property
    def runner_up(self) -> Candidate | None:
        return self.candidates[1] if len(self.candidates) > 1 else None

    @property
    def local(self) -> bool:
        return not self.prefill
