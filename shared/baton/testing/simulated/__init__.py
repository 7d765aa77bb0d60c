"""A worker without a model: real sockets, leases, prefix events and timing, tokens that anyone can foretell.

For tests of routers, for load tests and demonstrations; `python -m baton.testing.simulated` runs one in a
process of its own. Never part of what serves requests. Torch-free.
"""

from baton.testing.simulated.settings import SimulatedSettings, Timing
from baton.testing.simulated.tokens import TokenSource, text_of, token_source
from baton.testing.simulated.worker import Peers, SimulatedWorker

__all__ = [
    "Peers",
    "SimulatedSettings",
    "SimulatedWorker",
    "Timing",
    "TokenSource",
    "text_of",
    "token_source",
]
