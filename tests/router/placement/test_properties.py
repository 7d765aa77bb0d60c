"""What holds on any fleet, under any load: random workers, roles, generations, loads, caches and failures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.router.placement.fleets import SETTINGS, lease, placed, view

from baton.router.placement import POLICIES, Decision, Health, PlacementSettings, Query, Reason, Refusal, View
from baton.router.placement.cost import CostPolicy
from baton.router.placement.estimate import Moves, computers, lenders, owners
from baton.state import Role, WorkerLease

EXACT = PlacementSettings(equal_s=0.0, spread_share=0.0, candidates=64)
"""No two costs count as equal."""
ROLES: tuple[Role, ...] = ("prefill", "decode", "decode", "unified")


@dataclass(frozen=True)
class Case:
    leases: tuple[WorkerLease, ...]
    mine: Mapping[str, tuple[int, int]]
    others: Mapping[str, tuple[int, int]]
    health: Mapping[str, Health]
    query: Query
    now: float

    def view(self, settings: PlacementSettings = SETTINGS) -> View:
        return view(self.leases, self.mine, self.others, self.health, now=self.now, settings=settings)


def worker(chance: Random, number: int) -> WorkerLease:
    role: Role = chance.choice(ROLES)
    pages = chance.choice([64, 1000, 40_000])
    peers = {f"p{peer}": chance.uniform(0.1, 400) for peer in range(9) if chance.random() < 0.3}
    return lease(
        f"{role[0]}{number}",
        role,
        generation=chance.choice(["", "", "2"]),
        layout=chance.choice(["f/16", "f/16", "g/16"]),
        pages=pages,
        free=chance.randrange(pages),
        rate=chance.choice([0.0, 400.0, 20_000.0, 41_000.0]),
        step_ms=chance.choice([0.0, 5.0, 11.0, 300.0]),
        running=chance.randrange(80),
        queued=chance.choice([0, 0, 3000, 200_000]),
        max_model_len=chance.choice([0, 512, 131_072]),
        bandwidths=peers,
        node=chance.choice(["", "a", "b"]),
        zone=chance.choice(["", "x", "y"]),
        draining=chance.random() < 0.2,
    )


def make(seed: int, count: int) -> Case:
    """A fleet and a request. Drawn from one number: strategies for each field would take most of the time."""
    chance = Random(seed)
    workers = tuple(worker(chance, number) for number in range(count))
    ids = [*(one.id for one in workers), "gone"]
    prompt = chance.choice([chance.randint(1, 64), chance.randint(1, 9000)])

    def some(share: float) -> list[str]:
        return [id for id in ids if chance.random() < share]

    def loads() -> dict[str, tuple[int, int]]:
        return {
            id: (chance.randrange(90), chance.choice([0, 60, chance.randrange(60_000)])) for id in some(0.5)
        }

    query = Query(
        prompt_tokens=prompt,
        page_size=16,
        held={id: chance.randint(0, prompt // 16) for id in some(0.5)},
        identities=tuple(chance.randbytes(16) for _ in range(chance.randrange(2))),
        max_tokens=chance.choice([None, 1, 64, 5000]),
        excluded=frozenset(some(0.15)),
        number=chance.randrange(100),
    )
    health = {id: Health(chance.choice([0.0, 0.25, 10.0]), chance.uniform(1, 20)) for id in some(0.2)}
    return Case(workers, loads(), loads(), health, query, chance.choice([0.0, 0.3, 5.0]))


def cases() -> st.SearchStrategy[Case]:
    return st.builds(make, st.integers(0, 2**32), st.integers(0, 9))


def decide(case: Case, name: str, settings: PlacementSettings = SETTINGS) -> Decision | Refusal:
    return POLICIES[name](settings).place(case.view(settings), case.query)


def fitting(case: Case) -> list[WorkerLease]:
    """Decode workers that could ever serve it."""
    prompt = case.query.prompt_tokens
    return [
        one
        for one in case.leases
        if one.role != "prefill"
        and not one.draining
        and one.id not in case.query.excluded
        and (prompt < one.max_model_len or not one.max_model_len)
        and math.ceil((prompt + 1) / 16) < one.pages
    ]


@pytest.mark.parametrize("name", POLICIES)
@given(case=cases())
@settings(max_examples=120, deadline=None)
def test_goes_to_workers_that_take_it_and_fit_together(name: str, case: Case) -> None:
    found = decide(case, name)
    able = fitting(case)
    if isinstance(found, Refusal):
        assert found.message and found.retry_after_s >= 0
        assert not able or found.reason is Reason.NO_PAGES
        return
    known = {one.id: one for one in case.leases}
    assert found.decode in {one.id for one in able}
    owner = known[found.decode]
    assert len(set(found.prefill)) == len(found.prefill) <= SETTINGS.prefills
    for id in found.prefill:
        one = known[id]
        assert one.role == "prefill" and not one.draining and id not in case.query.excluded
        assert (one.layout_fingerprint, one.generation) == (owner.layout_fingerprint, owner.generation)
        assert owner.role == "decode"
    assert found.computes == (found.prefill[0] if found.prefill else found.decode)
    assert 1 <= found.computed_tokens <= case.query.prompt_tokens
    held = max(case.query.cached_tokens(found.computes), case.query.cached_tokens(found.lender or ""))
    assert found.computed_tokens == case.query.prompt_tokens - held
    if found.lender:
        lender = known[found.lender]
        assert not lender.draining and lender.id not in case.query.excluded
        assert (lender.role == "prefill") == found.local and owner.role == "decode"
        assert (lender.layout_fingerprint, lender.generation) == (owner.layout_fingerprint, owner.generation)
    assert math.isfinite(found.predicted_ttft_s) and found.predicted_ttft_s > 0
    assert found.gain_s >= 0 and 1 <= len(found.candidates) <= SETTINGS.candidates


@pytest.mark.parametrize("name", POLICIES)
@given(case=cases(), order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_decides_alike_whoever_asks(name: str, case: Case, order: object) -> None:
    shuffled = list(case.leases)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(replace(case, leases=tuple(shuffled)), name) == decide(case, name)


@given(case=cases(), more=st.integers(1, 600), who=st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_more_cached_is_never_later(case: Case, more: int, who: int) -> None:
    before = decide(case, "cost", EXACT)
    if isinstance(before, Refusal):
        return
    id = case.leases[who % len(case.leases)].id
    held = {**case.query.held, id: case.query.held.get(id, 0) + more}
    after = placed(decide(replace(case, query=replace(case.query, held=held)), "cost", EXACT))
    assert after.candidates[0].cost_s <= before.candidates[0].cost_s + 1e-9


@given(case=cases(), more=st.integers(1, 50_000), who=st.integers(0, 8))
@settings(max_examples=120, deadline=None)
def test_more_in_flight_is_never_sooner(case: Case, more: int, who: int) -> None:
    before = decide(case, "cost", EXACT)
    if isinstance(before, Refusal):
        return
    id = case.leases[who % len(case.leases)].id
    requests, tokens = case.mine.get(id, (0, 0))
    loaded = decide(replace(case, mine={**case.mine, id: (requests + 1, tokens + more)}), "cost", EXACT)
    if isinstance(loaded, Decision):
        assert loaded.candidates[0].cost_s >= before.candidates[0].cost_s - 1e-9


@given(case=cases())
@settings(max_examples=200, deadline=None)
def test_the_search_misses_no_cheaper_pair(case: Case) -> None:
    """Against all pairs, one by one."""
    seen, asked = case.view(EXACT), case.query
    found = CostPolicy(EXACT).place(seen, asked)
    if isinstance(found, Refusal):
        return
    moves, owned = Moves(asked, EXACT), owners(seen, asked, EXACT)
    decodes = [one.seat for one in owned if one.seat.role == "decode"]
    reached = {}
    for group in {one.seat.group for one in owned}:
        lent = lenders([seat for seat in decodes if seat.group == group], asked)
        seats = seen.roster.prefills.get(group, ())
        reached[group] = computers(seats, lent, seen, asked, EXACT)
    pairs = [
        one.cost_s + one.queue_s + EXACT.handoff_ms / 1000 + other.cost_s + moves.shown_s(one, other)
        for one in owned
        if one.seat.role == "decode"
        for other in reached[one.seat.group]
    ]
    apart = [one.cost_s for one in found.candidates if one.prefill]
    assert min(apart, default=math.inf) == pytest.approx(min(pairs, default=math.inf))
    assert found.candidates[0].cost_s <= min(pairs, default=math.inf) + 1e-9


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_who_failed_is_not_preferred_for_it(case: Case) -> None:
    found = decide(replace(case, health={}), "cost", EXACT)
    if isinstance(found, Refusal):
        return
    against = {found.decode: Health(penalty_s=1e9)}
    worse = placed(decide(replace(case, health=against), "cost", EXACT))
    others = [one for one in fitting(case) if one.id != found.decode]
    assert worse.decode != found.decode or not others
