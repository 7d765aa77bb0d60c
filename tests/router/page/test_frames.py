"""What the page is told of pods and placements, in words that a person can check."""

from __future__ import annotations

from typing import Any

import msgspec

from baton.router.page import frames
from baton.router.placement import Candidate, Decision
from baton.router.relay.trail import Placement
from baton.state import Fleet, WorkerLease, WorkerLoad

LEASE = WorkerLease(
    id="decode-0", incarnation="inc-1", role="decode", http="http://h:1", page_size=16, pages=100,
    model="tiny", model_fingerprint="m", layout_fingerprint="m/16", node="n", agents=(b"secret",),
    load=WorkerLoad(running=3, waiting=2, pages_free=40, pages_evictable=10, decode_step_ms=7.5),
)  # fmt: skip


def placed(**changes: Any) -> Placement:
    decision: dict[str, Any] = {
        "decode": "decode-0", "prefill": ("prefill-1",), "computes": "prefill-1", "computed_tokens": 36,
        "predicted_ttft_s": 0.0123, "cached_prefill": 64, "gain_s": 0.05,
        "candidates": (
            Candidate(
                decode="decode-0", prefill="prefill-1", cost_s=0.0123, compute_s=0.012, cached_tokens=64
            ),
            Candidate(decode="decode-1", cost_s=0.0623, compute_s=0.06),
        ),
    }  # fmt: skip
    attempt = changes.pop("attempt", 0)
    return Placement("req-1", attempt, 100.0, 100, Decision(**{**decision, **changes}))


def test_a_pod_is_shown_by_what_it_does_and_not_by_what_only_pods_need() -> None:
    (shown,) = frames.pods(Fleet(workers={"decode-0": LEASE}), frozenset())
    assert shown["state"] == "ready" and shown["running"] == 3 and shown["pages_evictable"] == 10
    assert "agents" not in shown and b"secret" not in msgspec.json.encode(shown)
    assert frames.pod(LEASE, shunned=True)["state"] == "failing"
    leaving = msgspec.structs.replace(LEASE, draining=True)
    assert frames.pod(leaving, shunned=True)["state"] == "draining"


def test_a_placement_says_where_and_why() -> None:
    shown = frames.aged(frames.placement(placed()), now=102.5)
    assert (
        shown["prefill"] == "prefill-1"
        and shown["decode"] == "decode-0"
        and shown["ago_s"] == 2.5
        and "at" not in shown
    )
    assert shown["predicted_ms"] == 12.3 and shown["ttft_ms"] is None and shown["cached_tokens"] == 64
    assert shown["why"] == (
        "prefill-1 holds 64 of 100 prompt tokens; a hand-over saves 50.0 ms; decode-1 costs 50.0 ms more"
    )
    assert shown["candidates"] == [
        "prefill-1 → decode-0: 12.3 ms (computing 12.0 ms), 64 tokens cached",
        "decode-1: 62.3 ms (computing 60.0 ms)",
    ]


def test_other_reasons() -> None:
    def why(**changes: Any) -> str:
        return frames.why(placed(cached_prefill=0, gain_s=0.0, candidates=(), **changes))

    assert why() == "the only one"
    assert why(prefill=(), computes="decode-0") == "computed where it is decoded"
    assert why(attempt=2) == "attempt 3"
    equal = (Candidate(decode="decode-0", cost_s=0.01), Candidate(decode="decode-1", cost_s=0.0101))
    assert frames.why(placed(cached_prefill=0, gain_s=0.0, candidates=equal)) == "as good as decode-1"


def test_how_it_ended_finds_its_placement() -> None:
    one = placed()
    one.ttft_s, one.outcome = 0.0214, "completed"
    assert frames.ended(one) == {
        "id": frames.placement(one)["id"], "outcome": "completed", "ttft_ms": 21.4,
    }  # fmt: skip
