"""Where a request goes: pure decisions over an immutable view. No I/O, no clock, nothing of the router's.

The router keeps a `Roster` of its fleet, makes a `View` and a `Query` for each request, asks a `Policy`,
and acts on the `Decision`. Routers with the same view decide alike.
"""

from baton.router.placement.decision import Candidate, Decision, Reason, Refusal
from baton.router.placement.lender import lender
from baton.router.placement.policies import POLICIES, Policy, policy
from baton.router.placement.settings import PlacementSettings
from baton.router.placement.view import Health, Query, Roster, View

__all__ = [
    "POLICIES",
    "Candidate",
    "Decision",
    "Health",
    "PlacementSettings",
    "Policy",
    "Query",
    "Reason",
    "Refusal",
    "Roster",
    "View",
    "lender",
    "policy",
]
