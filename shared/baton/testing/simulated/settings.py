"""How a simulated worker is and how fast."""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.state.lease import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long what takes. The defaults take no time at all."""

    prefill_tokens_per_s: float = 0.0
    """Prompts are computed one after the other; 0 is at once."""
    prefill_s: float = 0.0
    """Besides, for each prompt."""
    step_s: float = 0.0
    """One decode step, in which every running sequence gets a token; 0 is as fast as clients read."""
    step_per_sequence_s: float = 0.0
    """More, for each running sequence."""
    gigabytes_per_s: float = 0.0
    """Handing a prompt's pages over; 0 is at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """Of `python -m baton.testing.simulated`."""

    id: str = "sim-0"
    """The worker's name."""
    role: Role = "unified"
    """As a real worker's."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """Port to listen on; 0 takes any that is free."""
    state_url: str = ""
    """Redis, for lease and events; empty keeps neither."""
    state_prefix: str = "baton"
    """Begins every key."""
    model: str = "tiny"
    """What clients call it."""
    page_size: int = 16
    """Tokens a page holds."""
    pages: int = 4096
    """Pages that sequences and the cache share."""
    page_bytes: int = 2359296
    """What a page costs to move."""
    max_model_len: int = 4096
    """Longest sequence."""
    vocabulary: int = 30000
    """Token ids are below this."""
    fingerprint: str = "simulated"
    """Of model and layout."""
    max_requests: int = 100000
    """More are refused with 429."""
    heartbeat_s: float = 1.0
    """Between two beats of the lease."""
    expiry_s: float = 3.0
    """Without a beat for so long, the lease has ended."""
    timing: Timing = field(default_factory=Timing)
    """How fast it is."""
