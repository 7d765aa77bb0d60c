"""Fakes that tests, demos and load tests share. Never imported by what serves requests."""

from baton.testing.clock import ManualClock

__all__ = ["ManualClock"]
