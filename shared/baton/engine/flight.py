"""What the loop needs of a runner: to launch a batch, and to be asked later what came of it."""

from __future__ import annotations

from typing import Protocol

from baton.engine.batch import Batch, Outcome


class Flight(Protocol):
    """A launched step."""

    def ready(self, within_s: float = 0.0) -> bool:
        """Whether its outcome is there now, or within so many seconds."""
        ...

    def result(self) -> Outcome:
        """Its outcome; waits for the device."""
        ...


class StepRunner(Protocol):
    def launch(self, batch: Batch) -> Flight:
        """Start a step. Steps take effect in the order of launches."""
        ...

    def close(self) -> None:
        """Wait for what is in flight and let go of threads."""
        ...
