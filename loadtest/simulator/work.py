"""One request on its way through the fleet, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loadtest.simulator.traces import PAGE


@dataclass(slots=True)
class Work:
    identities: Sequence[bytes]
    """Of the prompt and all that is generated."""
    prompt: int
    output: int
    arrived: float
    first_at: float = 0.0
    done_at: float = 0.0
    cached: int = 0
    """Prompt tokens that nobody computed."""
    at_hand: int = 0
    """Prompt tokens that some pod held when it was placed."""
    local: bool = False
    gap_s: float = 0.0
    """The longest that its stream stood still while another's prompt was computed."""
    refusals: int = 0
    predicted_s: float = 0.0
    expected_cached: int = 0
    gain_s: float = 0.0
    on_first: Callable[[], None] = field(default=lambda: None, repr=False)
    on_done: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def prompt_pages(self) -> Sequence[bytes]:
        """Identities of those that can be reused: the last token is always computed."""
        return self.identities[: (self.prompt - 1) // PAGE]

    @property
    def ttft_s(self) -> float:
        return self.first_at - self.arrived

    @property
    def tpot_s(self) -> float:
        return (self.done_at - self.first_at) / max(1, self.output - 1)


@dataclass(slots=True)
class Rate:
    """Tokens a second while computing, as an engine measures it: the last second of work or so counts."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        keep = max(0.0, 1.0 - seconds)
        self.tokens = self.tokens * keep + tokens
        self.seconds = self.seconds * keep + seconds

    @property
    def value(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def pages_for(tokens: int) -> int:
    return -(-tokens // PAGE)
