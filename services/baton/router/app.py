"""A router's paths, and the chain that a request goes through: gate, understanding, admission, errand.

Composed once by `__main__`. Each step is narrow and cleans up after itself; their order is `_generate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from baton.core.clock import Clock
from baton.core.version import version
from baton.http import Doors, Exchange, Post, application, while_present
from baton.http.body import header
from baton.openai import (
    Asked,
    ServedModel,
    description,
    detokenize,
    model_list,
    model_told,
    read_bookmark,
    read_chat,
    read_completion,
    read_generate,
    tokenize,
)
from baton.openai.bookmark import LAST_EVENT
from baton.router.entry import Admission, Gate, Key
from baton.router.meters import Meters
from baton.router.own import Own
from baton.router.page import Page
from baton.router.probes import Probes
from baton.router.relay import Errand, Means
from baton.router.settings import RouterSettings
from baton.router.understand import Read, Understanding
from baton.trace import SILENT, Tracing

JSON = "application/json"
EXPOSED = ("x-request-id", "retry-after", "x-baton-reason")
"""What a page of another site may read of an answer's head besides what browsers always show."""


@dataclass(frozen=True, slots=True)
class App:
    """What the endpoints share."""

    settings: RouterSettings
    gate: Gate
    understanding: Understanding
    admission: Admission
    means: Means
    probes: Probes
    meters: Meters
    clock: Clock
    own: Own
    page: Page | None = None
    tracing: Tracing = SILENT

    def main(self) -> ASGIApp:
        """Everything; /metrics and the page only if they have no port of their own."""
        return self._main(None if self.settings.ui.port else self.page)

    def beside(self) -> ASGIApp:
        """What the page's own port serves: the page, and all that it asks."""
        return self._main(self.page)

    def _main(self, page: Page | None) -> ASGIApp:
        post = partial(Post, doors=self._doors())
        posts = {
            "/v1/chat/completions": post("chat", partial(self._generate, read_chat)),
            "/v1/completions": post("completion", partial(self._generate, read_completion)),
            "/generate": post("generate", partial(self._generate, read_generate)),
            "/tokenize": post("tokenize", partial(self._convert, tokenize)),
            "/detokenize": post("detokenize", partial(self._convert, detokenize)),
        }
        routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
        routes += [Route("/v1/models", self._models), Route("/v1/models/{model:path}", self._model)]
        routes += [*self.probes.routes(), *self.probes.debug_routes()]
        routes.append(Route(description.PATH, self._description))
        if not self.settings.http.metrics_port:
            routes.append(self.probes.metrics_route())
        if page is not None:
            routes += page.routes()
        app: ASGIApp = application(routes)
        if self.settings.cors.origins:
            app = CORSMiddleware(
                app, allow_origins=self.settings.cors.origins, allow_methods=["*"], allow_headers=["*"],
                expose_headers=EXPOSED,
            )  # fmt: skip
        return app

    def operations(self) -> Starlette:
        """What the second port serves."""
        return application([*self.probes.routes(), self.probes.metrics_route()])

    def beneath(self) -> Starlette:
        """What siblings ask of this process."""
        return application(self.own.routes(self.page.sight if self.page is not None else None))

    def _doors(self) -> Doors[Key]:
        return Doors(
            self.gate.admit,
            lambda endpoint, outcome: self.meters.requests.labels(endpoint, outcome).inc(),
            self.settings.http,
            self.settings.limits.deadline_s,
            self.clock,
            self.tracing,
        )

    # ---- generating ----

    async def _generate(self, read: Read, exchange: Exchange[Key]) -> None:
        key, began = exchange.guest, self.clock.now()
        brought = header(exchange.scope, LAST_EVENT)
        bookmark = read_bookmark(brought) if brought else None
        id = bookmark.request if bookmark else exchange.id
        generation = self.understanding.generation(bookmark)
        asked = await self.understanding.asked(read, exchange.body, key, id, generation, bookmark)
        self.meters.understand.observe(self.clock.now() - began)
        if key.name:
            exchange.notes["key"] = key.name
        async with while_present(exchange.receive), self.admission.enter(key, asked.priority):
            errand = Errand(self.means, exchange, asked, generation, bookmark.had if bookmark else None)
            try:
                await errand.run()
            finally:
                self._account(errand, exchange, asked)
        self.meters.e2e.observe(self.clock.now() - exchange.began)

    def _account(self, errand: Errand, exchange: Exchange[Key], asked: Asked) -> None:
        counted = errand.count()
        self.meters.prompt.inc(counted.prompt)
        self.meters.generated.inc(counted.generated)
        if counted.cached:
            self.meters.cached.inc(counted.cached)
        exchange.notes |= {**errand.notes(), "stream": asked.shape.stream}
        exchange.span.tell(
            model=asked.shape.model, cached_tokens=counted.cached, generated_tokens=counted.generated
        )

    async def _convert(self, convert: Callable[[bytes, ServedModel], bytes], exchange: Exchange[Key]) -> None:
        await exchange.reply.json(await self.understanding.convert(convert, exchange.body))

    async def _description(self, request: HttpRequest) -> Response:
        guarded = bool(self.settings.keys.file)
        told = description.describe(version(), description.ENDPOINTS, guarded=guarded)
        return Response(told, media_type=JSON)

    async def _models(self, request: HttpRequest) -> Response:
        with self.gate.admit(request.scope):
            return Response(model_list(self.understanding.generation().model), media_type=JSON)

    async def _model(self, request: HttpRequest) -> Response:
        with self.gate.admit(request.scope):
            model = self.understanding.generation().model
            return Response(model_told(model, request.path_params["model"]), media_type=JSON)
