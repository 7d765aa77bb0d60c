"""Where the feed of a whole router looks: the one place of the page that knows the router's parts."""

from __future__ import annotations

from collections.abc import Callable

from baton.core.clock import Clock
from baton.core.errors import Failed
from baton.core.version import version
from baton.router.meters import Meters
from baton.router.page.course import Reading, buckets, total
from baton.router.page.feed import Sources
from baton.router.page.frames import Frame
from baton.router.page.landings import Landings
from baton.router.page.sight import Seen
from baton.router.pods import Pods
from baton.router.relay import Trail
from baton.router.siblings import State
from baton.router.wire import Pool, fetch

PATIENCE_S = 1.0
"""How long a pod may take to tell of its hand-overs."""


def sources_of(
    *,
    pods: Pods,
    trail: Trail,
    meters: Meters,
    state: Callable[[], State],
    pool: Pool,
    policy: str,
    problem: Callable[[], str],
    clock: Clock,
) -> tuple[Seen, Sources]:
    """What this process alone sees, and what is of the whole router. `problem`: why no request can be
    answered now, in words; empty when it can."""

    landings: Landings

    async def ask(pod: str, path: str) -> bytes:
        head, body = await fetch(pool, pods.origin(pod), path, seconds=PATIENCE_S)
        if head.status != 200:
            raise Failed(f"{pod} answers {path} with {head.status}")
        return body

    def reading() -> Reading:
        return Reading(
            at=clock.now(),
            requests=total(meters.requests),
            prompt=landings.prompt,
            cached=landings.cached,
            generated=total(meters.generated),
            ttft=buckets(meters.ttft),
            itl=buckets(meters.itl),
        )

    def facts() -> Frame:
        generation = pods.generation
        return {
            "model": generation.model.names[0] if generation else "", "policy": policy, "problem": problem(),
            "version": version(),
        }  # fmt: skip

    landings = Landings(lambda: pods.fleet.workers.values(), ask, clock)
    seen = Seen(placements=lambda: trail.placements, reading=reading, state=state)
    return seen, Sources(fleet=lambda: pods.fleet, facts=facts, handoffs=landings.new)
