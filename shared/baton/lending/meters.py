"""What a pod measures of the prefixes that it reads and lends."""

from __future__ import annotations

from collections.abc import Callable

from baton.lending.lending import Lending
from baton.telemetry import Metrics


def measure(metrics: Metrics, lending: Callable[[], Lending | None]) -> None:
    """`lending` answers None until the pod is ready."""
    read = metrics.gauge("baton_prefix_pages_read", "Pages read out of other pods' pools since the start.")
    read.set_function(lambda: found.pages if (found := lending()) else 0)
    failed = metrics.gauge("baton_prefix_reads_failed", "Reads that brought nothing since the start.")
    failed.set_function(lambda: found.failed if (found := lending()) else 0)
    loans = metrics.gauge("baton_prefix_loans", "Prefixes that other pods are reading here.")
    loans.set_function(lambda: found.loans if (found := lending()) else 0)
