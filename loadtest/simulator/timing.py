"""How long things take: fitted to what was measured of Qwen3-8B on H200s (loadtest/results/pods-h200.md)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    token_s: float = 1 / 46_000
    """A prompt token, without attention: 2,048 tokens take 45 ms."""
    attended_s: float = 1.2e-9
    """Attention of one prompt token to one before it: 0.59 MFLOP at 0.5 PFLOP/s."""
    step_floor_s: float = 0.005
    """No step of a prefill is shorter: the weights are read once."""
    decode_s: float = 0.00468
    """A decode step, without attention."""
    context_s: float = 3.9e-8
    """The same for each token of context: 5.7 ms with 12 requests of 2,200 tokens, 7.4 ms with 32."""
    page_bytes: int = 2_359_296
    gbps: float = 250.0
    """Scattered pages between two pools."""
    message_s: float = 0.0005
    """From one process to another."""
    landing_s: float = 0.001
    """From the last byte to a request that may run."""

    def prefill_s(self, spans: list[tuple[int, int]]) -> float:
        """One step that computes so many tokens, each behind so many before them."""
        tokens = sum(new for new, _ in spans)
        attended = sum(new * (before + new / 2) for new, before in spans)
        return max(self.step_floor_s, tokens * self.token_s + attended * self.attended_s)

    def step_s(self, context: float) -> float:
        return self.decode_s + context * self.context_s

    def move_s(self, pages: int, gbps: float) -> float:
        return pages * self.page_bytes / (gbps * 1e9)
