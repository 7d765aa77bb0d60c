"""What operators and probes ask of a prefill pod. Clients ask it nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from baton.engine.worker import Worker
from baton.http import application
from baton.lending import measure
from baton.membership import Membership, lease_endpoint
from baton.prefill.legs import LegDesk
from baton.telemetry import CONTENT_TYPE, Metrics


@dataclass(slots=True)
class App:
    worker: Worker
    metrics: Metrics
    desk: LegDesk | None = None
    """None until ready."""
    member: Membership | None = None
    """None until ready."""
    stage: str = "starting"
    routes: list[Route] = field(default_factory=list)

    def __post_init__(self) -> None:
        gauge = self.metrics.gauge
        gauge("baton_legs_open", "Legs whose end has not been said.").set_function(
            lambda: self.desk.open if self.desk else 0
        )
        gauge("baton_waiting", "Legs that wait for a place.").set_function(
            lambda: self.worker.load.waiting if self.worker.load else 0
        )
        queued = gauge("baton_prefill_tokens_queued", "Prompt tokens that are still to be computed here.")
        queued.set_function(lambda: self.worker.load.prefill_tokens_queued if self.worker.load else 0)
        gauge("baton_decode_workers", "Decode workers that are in touch.").set_function(
            lambda: len(self.desk.visitors) if self.desk else 0
        )
        measure(self.metrics, lambda: self.desk.lending if self.desk else None)
        pages = gauge(
            "baton_pages", "Pages of the pool: free, cached (given up when needed) and used.", ("state",)
        )
        for state in ("free", "cached", "used"):
            pages.labels(state).set_function(partial(self._pages, state))

    def _pages(self, state: str) -> int:
        load = self.worker.load
        if load is None:
            return self.worker.facts.pages if self.worker.facts and state == "free" else 0
        free, cached = load.pages_free, load.pages_evictable
        return {"free": free, "cached": cached, "used": load.pages_total - free - cached}[state]

    def starlette(self) -> Starlette:
        return application(
            [
                Route("/livez", self._livez),
                Route("/readyz", self._readyz),
                Route("/lease", lease_endpoint(lambda: self.member.lease if self.member else None)),
                Route("/metrics", self._metrics),
            ]
        )

    async def _livez(self, request: Request) -> Response:
        return _json({"live": True})

    async def _readyz(self, request: Request) -> Response:
        """Whether decode pods can ask for legs, and if not, why."""
        told: dict[str, Any] = {"role": "prefill", "model": self.worker.config.model}
        if self.worker.failure is not None:
            return _json({**told, "ready": False, "message": str(self.worker.failure)}, 503)
        if self.desk is None or self.member is None:
            return _json({**told, "ready": False, "message": f"starting: {self.stage}"}, 503)
        if self.desk.draining:
            return _json({**told, "ready": False, "message": "draining"}, 503)
        return _json(
            {**told, "ready": True, "legs": self.desk.open, "decode_workers": len(self.desk.visitors)}
        )

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)


def _json(told: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(told), status, media_type="application/json")
