"""The cost model: one thing at a time, on fleets whose workers differ in that thing alone."""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random

import pytest
from tests.router.placement.fleets import SETTINGS, fleet, lease, placed, query, refused, view

from baton.router.placement import POLICIES, Decision, Health, PlacementSettings, Query, Reason, Refusal, View
from baton.router.placement.cost import CostPolicy

POLICY = CostPolicy(SETTINGS)
BUSY = {"d0": (40, 0), "d1": (40, 0)}
"""Decode workers on which computing a prompt would hold up many."""


def place(seen: View, asked: Query, settings: PlacementSettings = SETTINGS) -> Decision:
    return placed(CostPolicy(settings).place(seen, asked))


def refuse(seen: View, asked: Query, settings: PlacementSettings = SETTINGS) -> Refusal:
    return refused(CostPolicy(settings).place(seen, asked))


# ---- what is cached ----


def test_goes_to_the_prefill_worker_that_holds_the_prefix() -> None:
    found = place(view(fleet(4, 2), BUSY), query(8192, {"p2": 500}))
    assert found.prefill[0] == found.computes == "p2"
    assert (found.cached_prefill, found.computed_tokens) == (8000, 192)


def test_a_hot_prefix_does_not_pile_onto_one_worker() -> None:
    asked = query(2048, {"p2": 100})
    assert place(view(fleet(4, 2), {**BUSY, "p2": (1, 200)}), asked).computes == "p2"
    assert place(view(fleet(4, 2), {**BUSY, "p2": (9, 18_000)}), asked).computes != "p2"


def test_a_follow_up_is_computed_where_its_history_is() -> None:
    seen = view(fleet(2, 4), {f"d{number}": (10, 0) for number in range(4)})
    found = place(seen, query(4096, {"d3": 250, "p0": 200}))
    assert found.local and found.decode == found.computes == "d3"
    assert found.prefill == () and found.computed_tokens == 96
    assert found.gain_s == 0.0


def test_the_last_token_is_always_computed() -> None:
    found = place(view(fleet(1, 1)), query(64, {"d0": 4, "p0": 4}))
    assert found.computed_tokens == 16


def test_a_prefix_is_read_where_that_is_sooner_than_computing_it() -> None:
    near, far = {"p0": 200.0}, {"p0": 0.1}
    for bandwidths, lender in [(near, "d1"), (far, "")]:
        workers = [lease("p0", "prefill"), lease("d0"), lease("d1", bandwidths=bandwidths)]
        found = place(view(workers, {"d0": (20, 0), "d1": (90, 0)}), query(8192, {"d1": 500}))
        assert (found.decode, found.computes, found.lender) == ("d0", "p0", lender)
        assert found.computed_tokens == (192 if lender else 8192)
        assert (found.candidates[0].read_s > 0) == bool(lender)


def test_a_decode_worker_reads_from_a_prefill_worker_that_it_can_reach() -> None:
    workers = [lease("p0", "prefill"), lease("d0", bandwidths={"p0": 200.0})]
    found = place(view(workers, {"p0": (9, 90_000)}), query(8192, {"p0": 500}))
    assert found.local and found.lender == "p0" and found.computed_tokens == 192
    alone = [lease("p0", "prefill"), lease("u0", "unified", bandwidths={"p0": 200.0})]
    assert place(view(alone), query(8192, {"p0": 500})).lender == ""


# ---- apart or not ----


def test_a_long_prompt_goes_apart_from_running_streams() -> None:
    found = place(view(fleet(2, 2), BUSY), query(8192))
    assert found.computes.startswith("p") and found.gain_s > 0
    assert found.gain_s == pytest.approx(
        min(one.cost_s for one in found.candidates if not one.prefill) - found.candidates[0].cost_s
    )


def test_prompts_overflow_to_decode_workers_when_prefill_workers_queue() -> None:
    queues = {"p0": (6, 50_000), "p1": (6, 50_000), "d0": (3, 0), "d1": (3, 0)}
    found = place(view(fleet(2, 2), queues), query(4096))
    assert found.local


def test_the_more_streams_run_the_dearer_is_a_prompt_among_them() -> None:
    def local(running: int) -> bool:
        return place(view(fleet(1, 1), {"d0": (running, 0)}), query(1500)).local

    assert local(0) and not local(60)
    turned = [local(running) for running in range(60)]
    assert turned == sorted(turned, reverse=True), "it turns once"


def test_a_unified_worker_computes_for_itself_alone() -> None:
    found = place(view([lease("u0", "unified"), lease("p0", "prefill")]), query(20_000, {"p0": 1200}))
    assert found.decode == "u0" and found.local


def test_without_local_prefill_somebody_else_must_compute() -> None:
    never = PlacementSettings(local=False)
    assert not place(view(fleet(1, 1)), query(32), never).local
    assert refuse(view(fleet(0, 1)), query(32), never).reason is Reason.NO_PREFILL
    assert place(view([lease("u0", "unified")]), query(32), never).local


# ---- who fits whom ----


def test_pages_move_within_one_layout_and_generation() -> None:
    workers = [
        lease("old-p", "prefill", generation="1"),
        lease("new-p", "prefill", generation="2"),
        lease("other-p", "prefill", generation="1", layout="g/16"),
        lease("old-d", generation="1"),
    ]
    held = {"new-p": 500, "other-p": 500}
    found = place(view(workers, {"old-d": (40, 0)}), query(8192, held))
    assert found.prefill == ("old-p",)


def test_other_prefill_workers_are_named_in_order() -> None:
    found = place(view(fleet(5, 2), {**BUSY, "p0": (1, 3000)}), query(8192, {"p3": 500, "p1": 400}))
    assert found.prefill[:2] == ("p3", "p1") and len(found.prefill) == SETTINGS.prefills
    assert "p0" not in found.prefill


def test_prefers_the_pair_that_moves_pages_faster() -> None:
    slow_to_p0 = {"p0": 0.5, "p1": 250.0}
    workers = [lease("p0", "prefill"), lease("p1", "prefill"), lease("d0", bandwidths=slow_to_p0)]
    assert place(view(workers, {"d0": (40, 0)}), query(8192, {"p0": 8})).computes == "p1"


def test_a_bandwidth_that_the_other_end_measured_counts() -> None:
    workers = [lease("p0", "prefill", bandwidths={"d0": 0.5}), lease("p1", "prefill"), lease("d0")]
    assert place(view(workers, {"d0": (40, 0)}), query(8192, {"p0": 8})).computes == "p1"


def test_before_pairs_have_met_the_same_host_is_preferred() -> None:
    workers = [
        lease("p0", "prefill", node="b", zone="z"),
        lease("p1", "prefill", node="a", zone="z"),
        lease("p2", "prefill", node="c", zone="y"),
        lease("d0", node="a", zone="z"),
    ]
    assert place(view(workers, {"d0": (40, 0)}), query(8192)).prefill == ("p1", "p0", "p2")


# ---- load ----


def test_equal_costs_go_to_the_less_loaded() -> None:
    even = PlacementSettings(stall_share=0.0, busy_share=0.0)
    seen = view(fleet(0, 3), {"d0": (9, 0), "d1": (3, 0), "d2": (9, 0)}, settings=even)
    assert place(seen, query(64), even).decode == "d1"


def test_a_request_goes_where_fewer_run() -> None:
    assert place(view(fleet(0, 2), {"d0": (30, 0)}), query(64)).decode == "d1"


def test_what_other_routers_have_in_flight_counts() -> None:
    seen = view(fleet(2, 2), BUSY, {"p0": (4, 12_000)})
    assert place(seen, query(8192)).computes == "p1"


def test_a_queue_that_only_the_worker_knows_of_counts_until_it_must_be_done() -> None:
    workers = [lease("p0", "prefill", queued=8_000), lease("p1", "prefill"), *fleet(0, 2)]
    asked = query(8192, {"p0": 200})
    assert place(view(workers, BUSY), asked).computes == "p1"
    assert place(view(workers, BUSY, now=0.5), asked).computes == "p0"


def test_a_worker_that_has_measured_nothing_is_tried() -> None:
    workers = [lease("p0", "prefill"), lease("p1", "prefill", rate=0.0), *fleet(0, 2)]
    assert place(view(workers, {**BUSY, "p0": (1, 2000)}), query(8192)).computes == "p1"


def test_a_slow_worker_gets_less() -> None:
    workers = [lease("p0", "prefill", rate=10_000), lease("p1", "prefill"), *fleet(0, 2)]
    assert place(view(workers, {**BUSY, "p1": (1, 8000)}), query(8192)).computes == "p1"


@pytest.mark.parametrize("health", [Health(penalty_s=5.0), Health(slowness=30.0)])
def test_a_worker_that_failed_or_lags_is_shunned_but_not_for_ever(health: Health) -> None:
    asked = query(2048, {"p0": 100, "d0": 100})
    against = {"p0": health, "d0": health}
    found = place(view(fleet(2, 2), BUSY, health=against), asked)
    assert (found.decode, found.computes) == ("d1", "p1")
    only = [one for one in fleet(2, 2) if one.id in against]
    assert place(view(only, health=against), asked).decode == "d0"


def test_full_workers_are_waited_for_or_refuse() -> None:
    full, roomy = lease("d0", pages=600, free=10, running=2), lease("d1", running=10)
    assert place(view([full, roomy]), query(4096)).decode == "d1"
    waits = place(view([full]), query(4096))
    assert waits.candidates[0].pages_s > 0.1
    patient = PlacementSettings(longest_wait_s=1e-6)
    found = refuse(view([full]), query(4096), patient)
    assert found.reason is Reason.NO_PAGES and found.retry_after_s > 0


def test_pages_that_were_promised_since_the_last_beat_are_counted() -> None:
    worker, asked = lease("d0", pages=1000, free=300), query(4096, max_tokens=16)
    assert place(view([worker]), asked).candidates[0].pages_s == 0
    assert place(view([worker], {"d0": (2, 0)}), asked).candidates[0].pages_s > 0.05


# ---- refusals ----


def test_refusals_say_why() -> None:
    assert refuse(view([]), query()).reason is Reason.NO_DECODE
    assert refuse(view([lease("p0", "prefill")]), query()).reason is Reason.NO_DECODE
    assert "1 workers are draining" in refuse(view([lease("d0", draining=True)]), query()).message
    tried = refuse(view(fleet(1, 1)), query(excluded=frozenset({"d0"})))
    assert tried.reason is Reason.NO_DECODE and "tried" in tried.message
    assert refuse(view([lease("d0", max_model_len=2048)]), query(2048)).reason is Reason.TOO_LONG
    assert refuse(view([lease("d0", pages=128)]), query(2048)).reason is Reason.TOO_LONG
    small = view([lease("d0", pages=128, max_model_len=2048)])
    assert place(small, query(40_000, longest=1000)).decode == "d0", "prompts need not fit together"
    assert refuse(small, query(40_000, longest=2048)).reason is Reason.TOO_LONG


def test_excluded_prefill_workers_are_not_named() -> None:
    found = place(view(fleet(2, 2), BUSY), query(8192, {"p0": 500}, excluded=frozenset({"p0"})))
    assert found.prefill == ("p1",)


# ---- what a decision tells ----


def test_the_parts_of_a_cost_add_up() -> None:
    found = place(view(fleet(3, 3), {**BUSY, "p0": (2, 4000)}), query(8192, {"p0": 400, "d1": 20}))
    for one in found.candidates:
        parts = (
            one.pages_s + one.queue_s + one.read_s + one.compute_s + one.handoff_s + one.move_s
            + one.stall_s + one.later_s + one.spread_s + one.penalty_s
        )  # fmt: skip
        assert parts == pytest.approx(one.cost_s)
        assert min(one.pages_s, one.queue_s, one.compute_s, one.stall_s, one.later_s, one.move_s) >= 0
    assert found.predicted_ttft_s == pytest.approx(found.candidates[0].ttft_s)


def test_candidates_are_bounded_and_lead_with_the_chosen() -> None:
    found = place(view(fleet(20, 20)), query(4096))
    assert len(found.candidates) == SETTINGS.candidates
    first, second = found.candidates[0], found.runner_up
    assert (first.decode, first.prefill or first.decode) == (found.decode, found.computes)
    assert second is found.candidates[1]
    assert place(view(fleet(0, 1)), query(64)).runner_up is None


def test_equal_prompts_meet_and_others_spread() -> None:
    seen, chance = view(fleet(0, 16)), Random(5)
    chains = [(chance.randbytes(16),) for _ in range(64)]
    first = [place(seen, query(64, identities=chain)).decode for chain in chains]
    assert [place(seen, query(64, identities=chain)).decode for chain in chains] == first
    assert len(set(first)) > 8


def test_routers_do_not_all_choose_the_same_of_many_idle_workers() -> None:
    asked = query(8192, identities=(b"a" * 16,))
    seen = view(fleet(12, 12), {f"d{number}": (40, 0) for number in range(12)})
    chosen = {place(replace(seen, router=f"router-{number}"), asked).computes for number in range(8)}
    assert len(chosen) > 3
    assert place(replace(seen, router="router-1"), asked) == place(replace(seen, router="router-1"), asked)


@pytest.mark.parametrize("name", POLICIES)
def test_is_fast(name: str) -> None:
    """32 + 32 workers, a prompt of 2,000 pages, held to different depths."""
    chance = Random(1)
    workers = fleet(32, 32)
    mine = {one.id: (chance.randrange(1, 5), chance.randrange(8000)) for one in workers}
    held = {one.id: chance.choice([0, 10, 500, 1900]) for one in workers}
    seen, asked = view(workers, mine), query(32_000, held, identities=(chance.randbytes(16),))
    policy, took = POLICIES[name](SETTINGS), []
    for _ in range(30):
        start = time.process_time()
        policy.place(seen, asked)
        took.append(time.process_time() - start)
    assert min(took) < 0.001
