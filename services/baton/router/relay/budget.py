"""How many retries a router makes: a share of its traffic, so that failing pods are not buried under them."""

from __future__ import annotations


class RetryBudget:
    """The first retry of a request is free: a pod may die with a thousand streams, and none be lost."""

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = burst
        self.left = burst

    def __repr__(self) -> str:
        return f"RetryBudget({self.left:.0f} of {self._burst:.0f})"

    def request(self) -> None:
        """One more request came."""
        if self.left < self._burst:
            self.left = min(self._burst, self.left + self._share)

    def take(self, failures: int) -> bool:
        """Whether a request that failed so often may be tried again."""
        if failures <= 1:
            return True
        if self.left < 1:
            return False
        self.left -= 1
        return True
