"""Why a request went where it went, as headers of its answer, for clients that say `x-baton-explain: true`.

Never called for anybody else: the names of pods are no business of most clients.
"""

from __future__ import annotations

from baton.http import Reply
from baton.router.placement import Decision


def explain(reply: Reply, decision: Decision, attempt: int) -> None:
    reply.tell("x-baton-decode", decision.decode)
    reply.tell("x-baton-prefill", ",".join(decision.prefill) or "local")
    reply.tell("x-baton-predicted-ttft-ms", f"{decision.predicted_ttft_s * 1000:.1f}")
    reply.tell("x-baton-expected-cached-tokens", str(max(decision.cached_decode, decision.cached_prefill)))
    reply.tell("x-baton-attempt", str(attempt))
    if decision.candidates:
        reply.tell("x-baton-cost-ms", f"{decision.candidates[0].cost_s * 1000:.1f}")
    if (second := decision.runner_up) is not None:
        where = f"{second.decode}+{second.prefill}" if second.prefill else second.decode
        reply.tell("x-baton-runner-up", f"{where}; cost-ms={second.cost_s * 1000:.1f}")
