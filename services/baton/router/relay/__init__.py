"""From an understood request to its answered client, over as many pods as it takes."""

from baton.router.relay.attempt import Attempt
from baton.router.relay.budget import RetryBudget
from baton.router.relay.errand import Errand
from baton.router.relay.means import Means
from baton.router.relay.trail import Trail

__all__ = ["Attempt", "Errand", "Means", "RetryBudget", "Trail"]
