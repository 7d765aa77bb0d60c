"""What the feed says, as plain values: pods, placements and hand-overs in the page's own words. Pure.

Units are in the names. Pages are told ages, since a browser's clock agrees with nobody's; `at` is by the
clock of this host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton.router.placement import Candidate, Decision
from baton.router.relay.trail import Placement
from baton.state import Fleet, WorkerLease

Frame = dict[str, Any]

SHOWN_CANDIDATES = 5
CLOSE_S = 0.0005
"""Costs that differ by less count as equal in words."""


def pods(fleet: Fleet, shunned: frozenset[str]) -> list[Frame]:
    """Every live worker, and those that have just fallen silent."""
    return [pod(lease, lease.id in shunned) for lease in fleet.workers.values()]


def pod(lease: WorkerLease, shunned: bool) -> Frame:
    load = lease.load
    state = "draining" if lease.draining else "failing" if shunned else "ready"
    return {
        "id": lease.id, "incarnation": lease.incarnation, "role": lease.role, "state": state,
        "node": lease.node, "zone": lease.zone, "generation": lease.generation, "pages": lease.pages,
        "pages_free": load.pages_free, "pages_evictable": load.pages_evictable, "running": load.running,
        "prefilling": load.prefilling, "waiting": load.waiting,
        "prefill_tokens_per_s": load.prefill_tokens_per_s, "decode_step_ms": load.decode_step_ms,
    }  # fmt: skip


def name(one: Placement) -> str:
    return f"{one.request}.{one.attempt}"


def aged(frame: Frame, now: float) -> Frame:
    """As a page is told: how long ago instead of when."""
    told = dict(frame)
    return {"ago_s": round(now - told.pop("at"), 3), **told}


def placement(one: Placement) -> Frame:
    decision = one.decision
    return {
        "id": name(one),
        "at": one.at,
        "prompt_tokens": one.prompt_tokens,
        "cached_tokens": expected_cached(decision),
        "prefill": "" if decision.local else decision.computes,
        "decode": decision.decode,
        "predicted_ms": round(decision.predicted_ttft_s * 1000, 2),
        **_result(one),
        "why": why(one),
        "candidates": [candidate(each) for each in decision.candidates[:SHOWN_CANDIDATES]],
    }


def ended(one: Placement) -> Frame:
    """How it turned out."""
    return {"id": name(one), **_result(one)}


def _result(one: Placement) -> Frame:
    return {"outcome": one.outcome, "ttft_ms": _ms(one.ttft_s)}


def expected_cached(decision: Decision) -> int:
    return max(decision.cached_decode, decision.cached_prefill)


def why(one: Placement) -> str:
    """The reason in a sentence."""
    decision = one.decision
    parts = [f"attempt {one.attempt + 1}"] if one.attempt else []
    cached = expected_cached(decision)
    if cached:
        holder = decision.decode if decision.cached_decode >= decision.cached_prefill else decision.computes
        parts.append(f"{holder} holds {cached} of {one.prompt_tokens} prompt tokens")
    if decision.gain_s >= CLOSE_S:
        parts.append(f"a hand-over saves {_words(decision.gain_s)}")
    elif decision.local and one.prompt_tokens:
        parts.append("computed where it is decoded")
    second = decision.runner_up
    if second is not None and decision.candidates:
        behind = second.cost_s - decision.candidates[0].cost_s
        where = _route(second)
        parts.append(f"as good as {where}" if behind < CLOSE_S else f"{where} costs {_words(behind)} more")
    return "; ".join(parts) or "the only one"


def candidate(one: Candidate) -> str:
    """One way to serve it, and what it was expected to cost."""
    costs: Mapping[str, float] = {
        "waiting for pages": one.pages_s, "queue": one.queue_s, "computing": one.compute_s,
        "asking": one.handoff_s, "moving": one.move_s, "stalls": one.stall_s, "later": one.later_s,
        "penalty": one.penalty_s,
    }  # fmt: skip
    parts = ", ".join(f"{name} {_words(cost)}" for name, cost in costs.items() if cost >= CLOSE_S)
    cached = f", {one.cached_tokens} tokens cached" if one.cached_tokens else ""
    return f"{_route(one)}: {_words(one.cost_s)}{f' ({parts})' if parts else ''}{cached}"


def _route(one: Candidate) -> str:
    return f"{one.prefill} → {one.decode}" if one.prefill else one.decode


def _words(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
