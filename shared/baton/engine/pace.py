"""How fast an engine computes, from the steps that it makes: prompt tokens a second, and a decode's time.

The loop of rank 0 says when a step was launched and when it was absorbed; the load that is told to the
front carries the estimates. A router predicts with them, so one slow step (a first compilation, a
neighbour's burst) must not move them: both are medians over the last steps, of prompts by their tokens,
because a chunk of 20 tokens says little about one of 2,000.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable

KEPT_STEPS = 32
"""Steps of each kind that count."""


class Pace:
    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._launched: deque[float] = deque()
        self._ended_at = 0.0
        self._prefills: deque[tuple[float, int]] = deque(maxlen=KEPT_STEPS)
        """(tokens a second, tokens) of the last steps that computed prompts."""
        self._decodes: deque[float] = deque(maxlen=KEPT_STEPS)
        """Seconds of the last steps that only decoded."""
        self._prefill_tokens_per_s: float | None = 0.0
        """None when it must be worked out again."""
        self._decode_step_s: float | None = 0.0

    def launched(self) -> None:
        """A step begins, or waits for the one before it."""
        self._launched.append(self._clock())

    def absorbed(self, prompt_tokens: int) -> None:
        """The oldest launched step has ended; `prompt_tokens` of it were prompts'."""
        now = self._clock()
        # The device began with it when it was launched, or when it was done with the step before.
        seconds = now - max(self._launched.popleft(), self._ended_at)
        self._ended_at = now
        if seconds <= 0:
            return
        if prompt_tokens:
            self._prefills.append((prompt_tokens / seconds, prompt_tokens))
            self._prefill_tokens_per_s = None
        else:
            self._decodes.append(seconds)
            self._decode_step_s = None

    @property
    def prefill_tokens_per_s(self) -> float:
        """0 before the first prompt."""
        if self._prefill_tokens_per_s is None:
            self._prefill_tokens_per_s = weighted_median(self._prefills)
        return self._prefill_tokens_per_s

    @property
    def fastest_tokens_per_s(self) -> float:
        """Of the last steps that computed prompts; 0 before the first."""
        return max((rate for rate, _ in self._prefills), default=0.0)

    @property
    def decode_step_ms(self) -> float:
        """0 before the first decode."""
        if self._decode_step_s is None:
            self._decode_step_s = statistics.median(self._decodes)
        return self._decode_step_s * 1e3

    def __repr__(self) -> str:
        return f"<Pace {self.prefill_tokens_per_s:.0f} prompt tokens/s, {self.decode_step_ms:.2f} ms a step>"


def weighted_median(values: Iterable[tuple[float, int]]) -> float:
    """The value that half of all weight lies at or below."""
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    for value, weight in ordered:
        half -= weight
        if half <= 0:
            return value
    raise ValueError("the median of nothing")
