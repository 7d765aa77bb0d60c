"""What operators, probes and dashboards ask of a router: how it is, what it knows, what it decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from baton.core.clock import Clock
from baton.core.version import version
from baton.router.entry import Admission, Gate
from baton.router.exposed import Exposed
from baton.router.placement import Query, Reason, Refusal
from baton.router.pods import Pods
from baton.router.relay import Trail
from baton.telemetry import CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Probes:
    gate: Gate
    admission: Admission
    pods: Pods
    trail: Trail
    exposed: Exposed
    detail: Callable[[], Mapping[str, object]]
    """How the router stands with whatever tells it of pods."""
    clock: Clock

    def routes(self) -> list[Route]:
        return [
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            Route("/health", self._readyz),
            Route("/version", self._version),
        ]

    def debug_routes(self) -> list[Route]:
        return [Route("/debug/placements", self._placements), Route("/debug/fleet", self._fleet)]

    def metrics_route(self) -> Route:
        return Route("/metrics", self._metrics)

    def own_route(self) -> Route:
        """This process's own figures, for its siblings."""
        return Route("/metrics", self._own)

    def unready(self) -> tuple[str, str] | None:
        """Why no request can be answered now: a code, and the reason in words."""
        if self.gate.draining:
            return "draining", "this router is leaving"
        generation = self.pods.generation
        if generation is None:
            return "no_decode", "no decode or unified pod takes requests"
        found = self.pods.place(generation.kind, Query(prompt_tokens=1, page_size=generation.kind.page_size))
        # Full pods answer when they have room: an end of a queue is no reason to send clients away.
        if isinstance(found, Refusal) and found.reason is not Reason.NO_PAGES:
            return found.reason.value, found.message
        return None

    async def _livez(self, request: HttpRequest) -> Response:
        return _json({"live": True})

    async def _readyz(self, request: HttpRequest) -> Response:
        why = self.unready()
        told: dict[str, Any] = {"ready": why is None, "requests": self.gate.inside, **self.summary()}
        if why is None:
            return _json(told)
        return _json({**told, "reason": why[0], "message": why[1]}, status=503)

    def summary(self) -> dict[str, Any]:
        roles: dict[str, int] = {}
        for lease in self.pods.fleet.workers.values():
            roles[lease.role] = roles.get(lease.role, 0) + 1
        generation = self.pods.generation
        return {
            "model": generation.model.names[0] if generation else None,
            "workers": roles,
            "shunned": sorted(self.pods.shunning.shunned),
            **self.detail(),
        }

    async def _version(self, request: HttpRequest) -> Response:
        return _json({"version": version()})

    async def _metrics(self, request: HttpRequest) -> Response:
        return Response(await self.exposed.all(), media_type=CONTENT_TYPE)

    async def _own(self, request: HttpRequest) -> Response:
        return Response(self.exposed.own(), media_type=CONTENT_TYPE)

    async def _placements(self, request: HttpRequest) -> Response:
        self.gate.check_operator(request.scope)
        now = self.clock.now()
        return _json({"placements": [one.shown(now) for one in reversed(self.trail.placements)]})

    async def _fleet(self, request: HttpRequest) -> Response:
        self.gate.check_operator(request.scope)
        return _json(self.fleet())

    def fleet(self) -> dict[str, Any]:
        """Every worker as this router sees it."""
        pods, loads = self.pods, self.pods.loads
        workers, slow = [], pods.paces.slow
        for id, lease in pods.fleet.workers.items():
            facts = {name: getattr(lease, name) for name in lease.__struct_fields__ if name != "agents"}
            total = loads.total(id)
            told = {
                "shunned": id in pods.shunning.shunned,
                "slowness": round(slow.get(id, 1.0), 1),
                "pages_indexed": pods.index.pages.get(id, 0),
            }
            workers.append({**facts, **told, "requests": total.requests, "prompt_tokens": total.tokens})
        return {
            **self.summary(),
            "workers": workers,
            "running": self.admission.running,
            "waiting": self.admission.waiting,
            "routers": loads.routers,
        }


def _json(told: Mapping[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(told), status, media_type="application/json")
