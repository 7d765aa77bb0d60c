"""What all errands of a process share, whoever they are for. The process makes it once."""

from __future__ import annotations

from dataclasses import dataclass

from baton.core.clock import Clock
from baton.router.meters import Meters
from baton.router.pods import Pods
from baton.router.relay.budget import RetryBudget
from baton.router.relay.trail import Trail
from baton.router.settings import RetrySettings
from baton.router.wire import Pool


@dataclass(frozen=True, slots=True)
class Means:
    pods: Pods
    pool: Pool
    budget: RetryBudget
    meters: Meters
    trail: Trail
    settings: RetrySettings
    clock: Clock
