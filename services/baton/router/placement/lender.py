"""Who else holds the prompt's prefix: the pod out of whose pool it may be read instead of being computed.

The policy `cost` weighs it and says who. For the others the decision is made first, by what its own pods
hold; whether reading pays is for the pod that would read to say, by the bandwidth that it measured. Naming
a lender that holds nothing any more costs nothing.
"""

from __future__ import annotations

from baton.router.placement.decision import Decision
from baton.router.placement.view import Query


def lender(query: Query, decision: Decision) -> str:
    """The one that the policy chose; or the worker that holds most of the prompt, if that is more than the
    decision's own hold; else empty."""
    if decision.lender is not None:
        return decision.lender
    # Whoever computes reads from the decode worker without being told.
    at_hand = max(decision.cached_decode, decision.cached_prefill)
    holders = [(query.cached_tokens(worker), worker) for worker in query.held if worker != decision.computes]
    most, holder = max(holders, default=(0, ""))
    return holder if most > at_hand else ""
