"""How long things are expected to take on one worker. Arithmetic alone: the policies decide with it.

What is not measured is assumed (`PlacementSettings`), and what a pod measured lately goes before what it
said once: a lease is up to a second old, what routers have in flight a fifth of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from baton.router.placement.decision import Reason, Refusal
from baton.router.placement.settings import PlacementSettings
from baton.router.placement.view import SOUND, Query, Seat, View

LENDERS = 4
"""Of the workers that hold a prefix, so many are considered as its lenders."""
FADE_S = 2.0
"""A lease's count of requests means nothing after so long: routers' own counts are younger."""


class Owner(NamedTuple):
    """A decode (or unified) worker as the owner of a request."""

    cost_s: float
    """Of all that does not hang on who computes the prompt."""
    seat: Seat
    running: float
    """Requests that run there."""
    pages_s: float
    """Until it has pages and looks at the request, between two steps."""
    queue_s: float
    """Prompts before it that the worker itself computes: it looks at nothing meanwhile."""
    stall_s: float
    penalty_s: float
    slowness: float
    step_s: float
    """A decode step with the request in it."""
    requests: int
    """That routers have in flight there."""
    cached: int
    """Prompt tokens."""


class Computer(NamedTuple):
    """A worker as the one that computes the prompt."""

    cost_s: float
    seat: Seat
    queue_s: float
    read_s: float
    """Reading a prefix out of another worker's pool before."""
    compute_s: float
    later_s: float
    spread_s: float
    penalty_s: float
    requests: int
    cached: int
    """Prompt tokens, what is read included."""
    lender: str
    """Whose pool is read; empty for nobody's."""


def prefill_s(seat: Seat, prompt: int, cached: int, settings: PlacementSettings) -> float:
    """Computing the prompt's rest. Attention makes a token dearer the more stands before it."""
    alone = settings.attention_tokens
    attention = (alone + (prompt + cached) / 2) / (alone + settings.usual_tokens)
    return seat.token_s * (settings.prefill_floor_tokens + (prompt - cached) * attention)


def queued_tokens(seat: Seat, view: View, tokens: int) -> float:
    """Prompt tokens before a new one: what routers have in flight, or what the worker said and has not
    computed since, whichever is more."""
    if not seat.queued_tokens:
        return tokens
    return max(tokens, seat.queued_tokens - (view.now - seat.seen_at) / seat.token_s)


def busy_weight(requests: Sequence[int], settings: PlacementSettings) -> float:
    """How many seconds later requests wait for each second that one more is computed, by what each worker
    has in flight. Few while some worker is idle, for any of them will do (Sakasegawa's approximation of a
    queue before several servers). In a queue, as many as come while it lasts: by Little's law, as many as
    wait now. One look is no average: as if one worker more had been seen idle."""
    seats = len(requests)
    share = sum(1 for one in requests if one) / (seats + 1)
    idle: float = share ** math.sqrt(2 * (seats + 1)) / (seats * (1 - share))
    queued = max(0, sum(requests) - seats) / seats
    return settings.busy_share * (idle + queued)


def gap_s(seconds: float, settings: PlacementSettings) -> float:
    """What a gap in a stream counts: a few milliseconds go unnoticed, half a second does not."""
    return seconds * (1 + seconds * 1000 / settings.gap_ms)


def expected_tokens(query: Query, settings: PlacementSettings) -> int:
    """Output, most likely."""
    allowed = settings.output_tokens if query.max_tokens is None else query.max_tokens
    return min(allowed, settings.output_tokens)


def pages_for(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size)


def owners(view: View, query: Query, settings: PlacementSettings) -> list[Owner]:
    """Every decode worker that could ever hold the request."""
    output = expected_tokens(query, settings)
    pages = pages_for(query.prompt_tokens + output, query.page_size)
    return [
        _owner(seat, view, query, pages, output, settings)
        for seat in view.roster.decodes
        if seat.id not in query.excluded and fits(seat, query)
    ]


def fits(seat: Seat, query: Query) -> bool:
    longest = seat.max_model_len
    if longest and query.sequence_tokens >= longest:
        return False
    # One page is never given out: lines of a batch that stand for nothing write there.
    return pages_for(query.sequence_tokens + 1, query.page_size) < seat.pages


def _owner(
    seat: Seat, view: View, query: Query, pages: int, output: int, settings: PlacementSettings
) -> Owner:
    requests, tokens = view.in_flight(seat.id)
    health = view.health.get(seat.id, SOUND) if view.health else SOUND
    age_s = view.now - seat.seen_at
    running = max(requests, seat.requests * (1 - age_s / FADE_S))
    slower_s = seat.step_s / (settings.knee_requests + seat.stepped) * health.slowness
    step_s = slower_s * (settings.knee_requests + running + 1)
    ahead = queued_tokens(seat, view, tokens) if tokens or seat.queued_tokens else 0
    queue_s = ahead * seat.token_s * health.slowness
    wait_s = step_s / 2 if running >= 1 else 0.0
    lacking = pages - seat.room
    if requests > seat.requests:
        lacking += (requests - seat.requests) * pages
    if lacking > 0:
        # Those who run now give up all their pages within the time that one of them takes.
        wait_s += lacking / max(seat.pages - seat.room, pages) * output * step_s
    stall_s = settings.stall_share * output * (step_s + running * slower_s)
    return Owner(
        wait_s + stall_s + health.penalty_s, seat, running, wait_s, queue_s, stall_s,
        health.penalty_s, health.slowness, step_s, requests, query.cached_tokens(seat.id),
    )  # fmt: skip


def lenders(seats: Sequence[Seat], query: Query) -> list[tuple[int, Seat]]:
    """Those that hold most of the prompt, and how many tokens: pages can be read out of their pools."""
    held = [(query.cached_tokens(seat.id), seat) for seat in seats if query.held.get(seat.id)]
    held = [one for one in held if one[0] and one[1].id not in query.excluded]
    held.sort(key=lambda one: (-one[0], one[1].id))
    return held[:LENDERS]


def compute_s(
    seat: Seat, query: Query, lent: Sequence[tuple[int, Seat]], slowness: float, settings: PlacementSettings
) -> tuple[float, float, int, str]:
    """Seconds to read and to compute the prompt on a worker, the tokens that are spared, and who lends."""
    prompt, own = query.prompt_tokens, query.cached_tokens(seat.id)
    best = 0.0, prefill_s(seat, prompt, own, settings) * slowness, own, ""
    asking_s, known = settings.handoff_ms / 1000, -1
    rest_s = 0.0
    for cached, lender in lent:
        if cached <= own:
            break
        if cached != known:
            known, rest_s = cached, prefill_s(seat, prompt, cached, settings) * slowness
        if asking_s + rest_s >= best[0] + best[1]:
            break
        second_bytes = bandwidth_gbps(seat, lender, settings) * 1e9
        read_s = asking_s + (cached - own) // query.page_size * seat.page_bytes / second_bytes
        if read_s + rest_s < best[0] + best[1]:
            best = read_s, rest_s, cached, lender.id
    return best


def computers(
    seats: Sequence[Seat],
    lent: Sequence[tuple[int, Seat]],
    view: View,
    query: Query,
    settings: PlacementSettings,
) -> list[Computer]:
    """Every prefill worker among them, the cheapest first. `lent`: decode workers of their group."""
    loads = [(seat, *view.in_flight(seat.id)) for seat in seats]
    counts = [requests or seat.queued_tokens > 0 for seat, requests, _ in loads]
    weight, seed = busy_weight(counts, settings) if any(counts) else 0.0, rank(view, query)
    # What another router may have sent there meanwhile is as long as what is known to be there.
    usual = sum(tokens for _, _, tokens in loads) / max(1, sum(requests for _, requests, _ in loads))
    found = []
    for seat, requests, tokens in loads:
        if seat.id in query.excluded:
            continue
        health = view.health.get(seat.id, SOUND) if view.health else SOUND
        ahead = queued_tokens(seat, view, tokens + requests * settings.prefill_floor_tokens)
        queue_s = ahead * seat.token_s * health.slowness
        read_s, rest_s, cached, lender = compute_s(seat, query, lent, health.slowness, settings)
        later_s = weight * rest_s
        spread_s = settings.spread_share * max(rest_s, usual * seat.token_s) * place(seat, seed)
        cost_s = queue_s + read_s + rest_s + later_s + spread_s + health.penalty_s
        found.append(
            Computer(
                cost_s, seat, queue_s, read_s, rest_s, later_s, spread_s, health.penalty_s,
                requests, cached, lender,
            )
        )  # fmt: skip
    found.sort(key=lambda one: (one.cost_s, one.requests, turn(one.seat, seed)))
    return found


class Moves:
    """How long a request's pages take from one worker to another, as far as computing does not hide it: at
    least the pages of the last chunk."""

    __slots__ = ("_chunk", "_pages", "_settings", "_size")

    def __init__(self, query: Query, settings: PlacementSettings) -> None:
        self._size = query.page_size
        self._pages = pages_for(query.prompt_tokens, query.page_size)
        self._chunk = pages_for(settings.chunk_tokens, query.page_size)
        self._settings = settings

    def shown_s(self, owner: Owner, computer: Computer) -> float:
        byte_s = owner.seat.page_bytes / (bandwidth_gbps(owner.seat, computer.seat, self._settings) * 1e9)
        pages = self._pages - owner.cached // self._size
        return max(pages * byte_s - computer.compute_s, min(pages, self._chunk) * byte_s)

    def least_s(self, owner: Owner, fastest_gbps: float) -> float:
        """No worker's pages can be there sooner."""
        pages = self._pages - owner.cached // self._size
        return min(pages, self._chunk) * owner.seat.page_bytes / (fastest_gbps * 1e9)


def bandwidth_gbps(one: Seat, other: Seat, settings: PlacementSettings) -> float:
    """Measured by either of the pair, or assumed by where they run."""
    measured = one.bandwidths.get(other.id) or other.bandwidths.get(one.id)
    if measured:
        return measured
    if one.node and one.node == other.node:
        return settings.node_gbps
    if one.zone and other.zone and one.zone != other.zone:
        return settings.far_gbps
    return settings.zone_gbps


def rank(view: View, query: Query) -> int:
    """Where the order among equals begins. Each router has an order of its own, so that they do not choose
    the same idle worker before they hear of each other; one that has no name goes by the prompt."""
    if view.router:
        return crc32(view.router.encode())
    return crc32(query.identities[-1]) if query.identities else 0


def place(seat: Seat, seed: int) -> float:
    """A worker's place, from 0 to 1, in an order that differs from seed to seed."""
    if not seed:
        return 0.0
    mixed = (seat.mark ^ seed) * 0x9E3779B1 & 0xFFFFFFFF
    return (mixed ^ mixed >> 15) / 2**32


def turn(seat: Seat, seed: int) -> tuple[float, str]:
    """The same, for sorting."""
    return place(seat, seed), seat.id


def refusal(view: View, query: Query) -> Refusal:
    """Why no decode worker is left."""
    roster = view.roster
    left = [seat for seat in roster.decodes if seat.id not in query.excluded]
    if left:
        return Refusal(
            Reason.TOO_LONG,
            f"no worker holds {query.sequence_tokens} tokens of prompt and one of output",
            retry_after_s=0.0,
        )
    return Refusal(
        Reason.NO_DECODE,
        f"no decode worker takes the request: {len(roster.decodes)} live, all of them tried or failed,"
        f" {roster.draining} workers draining"
        if roster.decodes
        else f"no decode worker takes work; {roster.draining} workers are draining",
    )
