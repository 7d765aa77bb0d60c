"""What operators, probes and dashboards ask of a router: how it is, what it knows, what it decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from baton.core.version import version
from baton.router.entry import Gate
from baton.router.exposed import Exposed
from baton.router.own import PLACEMENTS, STATE, Own, Shown
from baton.router.placement import Query, Reason, Refusal
from baton.router.pods import Pods
from baton.router.relay.trail import KEPT
from baton.router.siblings import State
from baton.telemetry import CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Probes:
    gate: Gate
    pods: Pods
    exposed: Exposed
    own: Own
    detail: Callable[[], Mapping[str, object]]
    """How the router stands with whatever tells it of pods."""

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

    async def _placements(self, request: HttpRequest) -> Response:
        """Of all processes the last."""
        self.gate.check_operator(request.scope)
        siblings = self.own.siblings
        heard = await siblings.ask(PLACEMENTS)
        told = {number: msgspec.json.decode(body, type=list[Shown]) for number, body in heard.items()}
        told[siblings.number] = self.own.placements()
        every = [
            (at, {"process": number, **shown} if siblings.ports else shown)
            for number, several in told.items()
            for at, shown in several
        ]
        every.sort(key=lambda one: one[0], reverse=True)
        return _json({"placements": [shown for _, shown in every[:KEPT]], **self._unheard(heard)})

    async def _fleet(self, request: HttpRequest) -> Response:
        self.gate.check_operator(request.scope)
        heard = await self.own.siblings.ask(STATE)
        states = [self.own.state(), *(msgspec.json.decode(body, type=State) for body in heard.values())]
        return _json({**self.fleet(states), **self._unheard(heard)})

    def _unheard(self, heard: Mapping[int, bytes]) -> dict[str, Any]:
        """Which processes' part is lacking, where there are several."""
        siblings = self.own.siblings
        return {"unheard": [one for one in siblings.others if one not in heard]} if siblings.ports else {}

    def fleet(self, states: Sequence[State]) -> dict[str, Any]:
        """Every worker as this router sees it, whose processes are in these states."""
        pods, loads = self.pods, self.pods.loads
        shunned = {id for one in states for id in one.shunned}
        slow: dict[str, float] = {}
        for id, slowness in [pair for one in states for pair in one.slow.items()]:
            slow[id] = max(slowness, slow.get(id, 1.0))
        workers = []
        for id, lease in pods.fleet.workers.items():
            facts = {name: getattr(lease, name) for name in lease.__struct_fields__ if name != "agents"}
            total = loads.total(id)
            told = {
                "shunned": id in shunned,
                "slowness": round(slow.get(id, 1.0), 1),
                "pages_indexed": pods.index.pages.get(id, 0),
            }
            workers.append({**facts, **told, "requests": total.requests, "prompt_tokens": total.tokens})
        return {
            **self.summary(),
            "workers": workers,
            "shunned": sorted(shunned),
            "running": sum(one.running for one in states),
            "waiting": sum(one.waiting for one in states),
            "routers": loads.routers,
        }


def _json(told: Mapping[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(told), status, media_type="application/json")
