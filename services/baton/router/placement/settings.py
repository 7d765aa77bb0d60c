"""What can be set of placement: the policy, how things are weighed, what to assume until it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from baton.core.errors import InvalidSetting

PolicyName = Literal["cost", "prefix", "least-loaded", "round-robin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSettings:
    """The section `placement`. The defaults are of an 8B model on one H200 a pod, and matter until pods have
    measured themselves."""

    policy: PolicyName = "cost"
    """cost: where the first token is expected soonest, all things weighed. The others are for comparison."""
    local: bool = True
    """Whether decode pods may be told to compute prompts themselves."""
    candidates: int = 8
    """Candidates that a decision keeps with their costs, the chosen one included."""
    prefills: int = 3
    """Prefill pods named to the decode pod, the best first: it asks the next when one fails."""
    stall_share: float = 0.1
    """What a second by which a running stream is held up counts, in seconds of waiting for a first token."""
    gap_ms: float = 50.0
    """A gap of this length in the running streams counts twice its seconds, and longer ones ever more."""
    busy_share: float = 1.0
    """How much of the delay that computing means for later requests counts; 0 looks at this request alone."""
    equal_s: float = 0.001
    """Costs this close are equal: then more cached tokens, fewer requests in flight and the id decide."""
    spread_share: float = 0.3
    """How much of a prompt's computing time parts the first from the last of workers that are equal: routers
    hear late of each other's choices, and each has an order of equals of its own."""
    longest_wait_s: float = 10.0
    """A request that would wait longer than this for pages, wherever it went, is refused."""
    output_tokens: int = 256
    """What a request is expected to generate when it allows more."""
    prefill_tokens_per_s: float = 40_000.0
    """Assumed while no pod of its kind has measured it."""
    prefill_floor_tokens: int = 128
    """What a prefill costs besides its tokens, in tokens."""
    attention_tokens: int = 20_000
    """Context at which a token's attention costs as much as all else of its prefill."""
    usual_tokens: int = 2_000
    """Context at which rates of prefill are taken to have been measured."""
    decode_step_ms: float = 6.0
    """Assumed while no pod of its kind has measured it."""
    knee_requests: int = 50
    """Running requests at which a decode step takes twice as long as for one."""
    handoff_ms: float = 4.0
    """What a hand-over adds to a prefill besides moving pages."""
    chunk_tokens: int = 2048
    """Tokens that a prefill pod computes in a step: the move of the last ones is waited for."""
    node_gbps: float = 100.0
    """Assumed between pods of one host that have not met."""
    zone_gbps: float = 20.0
    """Assumed between pods of one zone that have not met, or whose place is not told."""
    far_gbps: float = 2.0
    """Assumed between zones."""

    def __post_init__(self) -> None:
        counts = (
            "candidates",
            "prefills",
            "output_tokens",
            "knee_requests",
            "chunk_tokens",
            "attention_tokens",
        )
        shares = (
            "stall_share",
            "busy_share",
            "equal_s",
            "longest_wait_s",
            "prefill_floor_tokens",
            "handoff_ms",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise InvalidSetting(name, f"must be 1 or more, not {getattr(self, name)}")
        for name in shares:
            if getattr(self, name) < 0:
                raise InvalidSetting(name, f"must be 0 or more, not {getattr(self, name)}")
        for name in ("prefill_tokens_per_s", "decode_step_ms", "node_gbps", "zone_gbps", "far_gbps"):
            if getattr(self, name) <= 0:
                raise InvalidSetting(name, f"must be above 0, not {getattr(self, name)}")
