"""The policy `cost`: the pair of workers, or the one, where a request costs everybody the least time.

    cost = the request's own time to its first token
         + the move of pages that is not hidden
         + what those pay who are served there (weighed)
         + what those pay who come later (weighed)

Not every pair is looked at: owners are taken in the order of what is fixed of their cost, and the search
ends where even the best computer could not bring the next one in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappush, heapreplace

from baton.router.placement.decision import Candidate, Decision, Reason, Refusal
from baton.router.placement.estimate import (
    Computer,
    Moves,
    Owner,
    compute_s,
    computers,
    expected_tokens,
    gap_s,
    lenders,
    owners,
    place,
    rank,
    refusal,
    turn,
)
from baton.router.placement.settings import PlacementSettings
from baton.router.placement.view import SOUND, Group, Query, Seat, View


@dataclass(frozen=True, slots=True)
class Way:
    """One way to serve the request."""

    cost_s: float
    owner: Owner
    computer: Computer
    move_s: float
    handoff_s: float

    @property
    def local(self) -> bool:
        return self.owner.seat is self.computer.seat


class CostPolicy:
    """Pure: the same view and query give the same answer, whoever asks."""

    def __init__(self, settings: PlacementSettings) -> None:
        self.settings = settings

    def __repr__(self) -> str:
        return "CostPolicy()"

    def place(self, view: View, query: Query) -> Decision | Refusal:
        settings = self.settings
        owned = owners(view, query, settings)
        if not owned:
            return refusal(view, query)
        soonest = min(one.pages_s for one in owned)
        if soonest > settings.longest_wait_s:
            return Refusal(Reason.NO_PAGES, "every worker's pool is full", retry_after_s=soonest)
        by_group = {
            group: computers(seats, self._lent(owned, group, query), view, query, settings)
            for group, seats in view.roster.prefills.items()
        }
        here = self._local(view, owned, query)
        apart = self._apart(view, owned, by_group, query)
        if not here and not apart:
            return Refusal(Reason.NO_PREFILL, "no prefill worker computes for the decode workers that live")
        return self._decide(view, query, here, apart, by_group)

    def _lent(self, owned: Sequence[Owner], group: Group, query: Query) -> list[tuple[int, Seat]]:
        """Decode workers of a group that hold most of the prompt: prefill workers can read it there."""
        holders = [one.seat for one in owned if one.cached and one.seat.group == group]
        return lenders([seat for seat in holders if seat.role == "decode"], query)

    def _local(self, view: View, owned: Sequence[Owner], query: Query) -> list[Way]:
        """The best owners that compute the prompt themselves, cheapest first."""
        settings, seed = self.settings, rank(view, query)
        # As many come as end, and to any of them alike: a busy one is not asked less for being slower.
        coming = sum(one.running / one.step_s for one in owned) / len(owned)
        coming /= max(1, expected_tokens(query, settings))
        lent = {group: lenders(seats, query) for group, seats in view.roster.prefills.items()}
        found: list[tuple[float, Owner, Computer]] = []
        for one in owned:
            if not settings.local and one.seat.role == "decode":
                continue
            near = lent.get(one.seat.group, ()) if one.seat.role == "decode" else ()
            read_s, rest_s, cached, lender = compute_s(one.seat, query, near, one.slowness, settings)
            # Those that come while it computes wait half of it, those before all of it.
            later_s = settings.busy_share * coming * (one.queue_s + rest_s / 2) * rest_s
            spread_s = settings.spread_share * rest_s * place(one.seat, seed)
            stall_s = settings.stall_share * one.running * gap_s(rest_s, settings)
            itself = Computer(
                one.queue_s + read_s + rest_s + later_s + spread_s,
                one.seat, one.queue_s, read_s, rest_s, later_s, spread_s, 0.0, one.requests, cached, lender,
            )  # fmt: skip
            found.append((one.cost_s + itself.cost_s + stall_s, one, itself))
        found.sort(key=lambda way: (way[0], way[1].requests, turn(way[1].seat, seed)))
        return [Way(cost_s, one, itself, 0.0, 0.0) for cost_s, one, itself in found[: settings.candidates]]

    def _apart(
        self, view: View, owned: Sequence[Owner], by_group: dict[Group, list[Computer]], query: Query
    ) -> list[Way]:
        """The best pairs, one an owner, cheapest first."""
        keep, handoff_s = self.settings.candidates, self.settings.handoff_ms / 1000
        fastest, moves, seed = view.roster.fastest_gbps, Moves(query, self.settings), rank(view, query)
        bounds: list[tuple[tuple[float, int, tuple[float, str]], float, float, Owner, list[Computer]]] = []
        for one in owned:
            found = by_group.get(one.seat.group)
            if found and one.seat.role == "decode":
                fixed_s, least_s = one.cost_s + one.queue_s + handoff_s, moves.least_s(one, fastest)
                order = fixed_s + found[0].cost_s + least_s, one.requests, turn(one.seat, seed)
                bounds.append((order, fixed_s, least_s, one, found))
        bounds.sort()
        best: list[tuple[float, int, Way]] = []
        for number, (order, fixed_s, least_s, one, found) in enumerate(bounds):
            if len(best) == keep and order[0] >= -best[0][0]:
                break
            computer, shown_s = _partner(one, found, least_s, moves)
            way = Way(fixed_s + computer.cost_s + shown_s, one, computer, shown_s, handoff_s)
            entry = (-way.cost_s, -number, way)
            if len(best) < keep:
                heappush(best, entry)
            elif entry > best[0]:
                heapreplace(best, entry)
        return [way for _, _, way in sorted(best, reverse=True)]

    def _decide(
        self,
        view: View,
        query: Query,
        here: Sequence[Way],
        apart: Sequence[Way],
        by_group: dict[Group, list[Computer]],
    ) -> Decision:
        ways = sorted((*here, *apart), key=lambda way: way.cost_s)
        equal_s, seed = ways[0].cost_s + self.settings.equal_s, rank(view, query)

        def order(way: Way) -> tuple[float, int, int, tuple[float, str], str]:
            if way.cost_s > equal_s:
                return way.cost_s, 0, 0, (0.0, ""), ""
            requests = way.owner.requests + way.computer.requests * (not way.local)
            owner, computer = way.owner.seat, way.computer.seat
            return 0.0, -way.computer.cached, requests, turn(owner, seed), computer.id

        ways.sort(key=order)
        ways = ways[: self.settings.candidates]
        chosen = ways[0]
        told = tuple(map(_candidate, ways))
        gain_s = gain_ttft_s = 0.0
        prefills: tuple[str, ...] = ()
        if not chosen.local:
            others = [one.seat.id for one in by_group[chosen.owner.seat.group]]
            others.remove(chosen.computer.seat.id)
            prefills = (chosen.computer.seat.id, *others)[: self.settings.prefills]
            if here:
                gain_s = here[0].cost_s - chosen.cost_s
                gain_ttft_s = _candidate(here[0]).ttft_s - told[0].ttft_s
        return Decision(
            decode=chosen.owner.seat.id,
            prefill=prefills,
            computes=chosen.computer.seat.id,
            computed_tokens=query.prompt_tokens - chosen.computer.cached,
            predicted_ttft_s=told[0].ttft_s,
            slowness=view.health.get(chosen.computer.seat.id, SOUND).slowness,
            cached_decode=chosen.owner.cached,
            cached_prefill=0 if chosen.local else query.cached_tokens(chosen.computer.seat.id),
            lender=chosen.computer.lender,
            gain_s=gain_s,
            gain_ttft_s=gain_ttft_s,
            candidates=told,
        )


def _partner(one: Owner, found: Sequence[Computer], least_s: float, moves: Moves) -> tuple[Computer, float]:
    """The owner's best computer, and the move that is waited for. They come cheapest first: the search ends
    where the fastest move would not make the next one better."""
    chosen, shown_s = found[0], moves.shown_s(one, found[0])
    best_s = chosen.cost_s + shown_s
    for computer in found:
        if computer.cost_s + least_s >= best_s:
            break
        move_s = moves.shown_s(one, computer)
        if computer.cost_s + move_s < best_s:
            chosen, shown_s, best_s = computer, move_s, computer.cost_s + move_s
    return chosen, shown_s


def _candidate(way: Way) -> Candidate:
    one, computer = way.owner, way.computer
    pages_s = one.pages_s if way.local else one.pages_s + one.queue_s
    parts_s = pages_s + computer.queue_s + computer.read_s + computer.compute_s + way.handoff_s + way.move_s
    penalty_s = one.penalty_s + computer.penalty_s
    return Candidate(
        decode=one.seat.id,
        prefill="" if way.local else computer.seat.id,
        cost_s=way.cost_s,
        pages_s=pages_s,
        queue_s=computer.queue_s,
        read_s=computer.read_s,
        compute_s=computer.compute_s,
        handoff_s=way.handoff_s,
        move_s=way.move_s,
        stall_s=way.cost_s - parts_s - penalty_s - computer.later_s - computer.spread_s,
        later_s=computer.later_s,
        spread_s=computer.spread_s,
        penalty_s=penalty_s,
        cached_tokens=computer.cached,
    )
