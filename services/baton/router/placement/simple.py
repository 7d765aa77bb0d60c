"""The policies that are compared with `cost`: each looks at one thing. Prompts are computed by prefill
workers where there are any, but for what a decode worker holds most of already (`prefix`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baton.router.placement.decision import Candidate, Decision, Reason, Refusal
from baton.router.placement.estimate import fits, prefill_s, queued_tokens, rank, refusal, turn
from baton.router.placement.settings import PlacementSettings
from baton.router.placement.view import Query, Seat, View

Order = Callable[[list[Seat], View, Query], list[Seat]]
"""Of prefill workers, the best first."""


class RoundRobinPolicy:
    """Each worker in its turn."""

    def __init__(self, settings: PlacementSettings) -> None:
        self.settings = settings

    def place(self, view: View, query: Query) -> Decision | Refusal:
        owned = _owners(view, query)
        if not owned:
            return refusal(view, query)
        at = query.number % len(owned)
        return _first(owned[at:] + owned[:at], view, query, self.settings, _in_turn)


class LeastLoadedPolicy:
    """Where the fewest requests run; prompts where the fewest tokens wait."""

    def __init__(self, settings: PlacementSettings) -> None:
        self.settings = settings

    def place(self, view: View, query: Query) -> Decision | Refusal:
        owned = _owners(view, query)
        if not owned:
            return refusal(view, query)
        seed = rank(view, query)
        owned.sort(key=lambda seat: (view.in_flight(seat.id).requests, turn(seat, seed)))
        return _first(owned, view, query, self.settings, _by_queue)


class PrefixPolicy:
    """Where most of the prompt is cached, whatever else goes on there; equals by load."""

    def __init__(self, settings: PlacementSettings) -> None:
        self.settings = settings

    def place(self, view: View, query: Query) -> Decision | Refusal:
        owned = _owners(view, query)
        if not owned:
            return refusal(view, query)
        seed = rank(view, query)

        def order(seat: Seat) -> tuple[int, int, tuple[float, str]]:
            return -query.cached_tokens(seat.id), view.in_flight(seat.id).requests, turn(seat, seed)

        owned.sort(key=order)
        best = owned[0]
        cached = query.cached_tokens(best.id)
        elsewhere = max((query.cached_tokens(seat.id) for seat in _computers(best, view, query)), default=-1)
        if cached and cached >= elsewhere and (self.settings.local or best.role == "unified"):
            return _decision(best, (), view, query, self.settings)
        return _first(owned, view, query, self.settings, _by_cached)


def _owners(view: View, query: Query) -> list[Seat]:
    return [seat for seat in view.roster.decodes if seat.id not in query.excluded and fits(seat, query)]


def _computers(owner: Seat, view: View, query: Query) -> list[Seat]:
    if owner.role != "decode":
        return []
    return [seat for seat in view.roster.prefills.get(owner.group, ()) if seat.id not in query.excluded]


def _in_turn(seats: list[Seat], view: View, query: Query) -> list[Seat]:
    at = query.number % len(seats)
    return seats[at:] + seats[:at]


def _by_queue(seats: list[Seat], view: View, query: Query) -> list[Seat]:
    seed = rank(view, query)

    def order(seat: Seat) -> tuple[float, int, tuple[float, str]]:
        requests, tokens = view.in_flight(seat.id)
        return queued_tokens(seat, view, tokens), requests, turn(seat, seed)

    return sorted(seats, key=order)


def _by_cached(seats: list[Seat], view: View, query: Query) -> list[Seat]:
    return sorted(_by_queue(seats, view, query), key=lambda seat: -query.cached_tokens(seat.id))


def _first(
    owned: Sequence[Seat], view: View, query: Query, settings: PlacementSettings, order: Order
) -> Decision | Refusal:
    """The first owner for whom somebody computes the prompt."""
    for owner in owned:
        seats = _computers(owner, view, query)
        if seats:
            return _decision(owner, order(seats, view, query), view, query, settings)
        if settings.local or owner.role == "unified":
            return _decision(owner, (), view, query, settings)
    return Refusal(Reason.NO_PREFILL, "no prefill worker computes for the decode workers that live")


def _decision(
    owner: Seat, seats: Sequence[Seat], view: View, query: Query, settings: PlacementSettings
) -> Decision:
    computes = seats[0] if seats else owner
    cached = query.cached_tokens(computes.id)
    queue_s = queued_tokens(computes, view, view.in_flight(computes.id).tokens) * computes.token_s
    compute_s = prefill_s(computes, query.prompt_tokens, cached, settings)
    told = Candidate(
        decode=owner.id,
        prefill=computes.id if seats else "",
        queue_s=queue_s,
        compute_s=compute_s,
        handoff_s=settings.handoff_ms / 1000 if seats else 0.0,
        cached_tokens=cached,
    )
    return Decision(
        decode=owner.id,
        prefill=tuple(seat.id for seat in seats[: settings.prefills]),
        computes=computes.id,
        computed_tokens=query.prompt_tokens - cached,
        predicted_ttft_s=told.ttft_s,
        cached_decode=query.cached_tokens(owner.id),
        cached_prefill=cached if seats else 0,
        candidates=(told,),
    )
