"""What one of several processes tells its siblings, and nobody else: its figures, decisions, state and news.

Any of them answers for all: what a client asks of one, it asks of the others here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from baton.core.clock import Clock
from baton.router.entry import Admission
from baton.router.exposed import PATH, Exposed
from baton.router.page import Sight
from baton.router.pods import Pods
from baton.router.relay import Trail
from baton.router.siblings import Siblings, State, encode

PLACEMENTS = "/placements"
STATE = "/state"
NEWS = "/news"

Shown = tuple[float, dict[str, Any]]
"""When it was decided, by this host's clock, and all of it."""


@dataclass(frozen=True, slots=True)
class Own:
    exposed: Exposed
    admission: Admission
    pods: Pods
    trail: Trail
    siblings: Siblings
    clock: Clock

    def state(self) -> State:
        return State(
            self.admission.running,
            self.admission.waiting,
            tuple(sorted(self.pods.shunning.shunned)),
            dict(self.pods.paces.slow),
        )

    def placements(self) -> list[Shown]:
        """Oldest first."""
        now = self.clock.now()
        return [(one.at, one.shown(now)) for one in self.trail.placements]

    def routes(self, sight: Sight | None) -> list[Route]:
        """`sight` where there is a page."""

        async def metrics(request: Request) -> Response:
            self.siblings.check(request.scope)
            return Response(self.exposed.own())

        async def state(request: Request) -> Response:
            self.siblings.check(request.scope)
            return Response(msgspec.json.encode(self.state()))

        async def placements(request: Request) -> Response:
            self.siblings.check(request.scope)
            return Response(msgspec.json.encode(self.placements()))

        async def news(request: Request) -> Response:
            self.siblings.check(request.scope)
            assert sight is not None
            return StreamingResponse(_packed(sight))

        routes = [Route(PATH, metrics), Route(STATE, state), Route(PLACEMENTS, placements)]
        return [*routes, Route(NEWS, news)] if sight is not None else routes


async def _packed(sight: Sight) -> AsyncIterator[bytes]:
    async for message in sight.follow():
        yield encode(message)
