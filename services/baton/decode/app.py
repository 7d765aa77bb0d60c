"""A pod's paths: what clients ask of the model, and what operators and probes ask of the pod.

Composed once by `__main__`. Endpoints that generate are `Post`s around the chain of `stream`; the rest
answer at once from what the pod knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from baton.core.clock import Clock
from baton.core.errors import (
    Cancelled,
    CannotContinue,
    InvalidField,
    InvalidRequest,
    ProtocolMismatch,
    Refused,
    WorkerDied,
)
from baton.core.ids import made_at
from baton.core.version import version
from baton.decode.meters import Meters
from baton.decode.pod import Pod
from baton.decode.receiver import Receiver
from baton.decode.settings import DecodeSettings
from baton.decode.stream import Generation, events
from baton.decode.work import Work, of_asked, of_placed
from baton.grammar.checker import Checker
from baton.http import Doors, Exchange, Post, application
from baton.http.body import header, is_number
from baton.http.reply import Header
from baton.membership import lease_endpoint
from baton.openai import (
    Asked,
    ServedModel,
    description,
    detokenize,
    mark_of,
    model_list,
    model_told,
    read_bookmark,
    read_chat,
    read_completion,
    read_generate,
    response,
    tokenize,
)
from baton.openai.bookmark import HEADER, LAST_EVENT
from baton.protocol import placed
from baton.protocol.engine import EngineFacts
from baton.telemetry import CONTENT_TYPE, Metrics
from baton.trace import SILENT, Tracing

T = TypeVar("T")

Reader = Callable[[Exchange[ServedModel]], Work]
"""What is asked; raises what is wrong with it."""

TIMELINE_HEADER = "x-baton-timeline"
"""`true` has an answer tell when what happened."""
SHORT_BODY_BYTES = 8192
"""Up to here a body is read on the event loop: handing it to a thread takes longer."""
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class App:
    """What the endpoints share."""

    pod: Pod
    metrics: Metrics
    meters: Meters
    settings: DecodeSettings
    clock: Clock
    checker: Checker
    tracing: Tracing = SILENT

    def main(self) -> Starlette:
        """Everything; /metrics only if it has no port of its own."""
        post = partial(Post, doors=self._doors())
        posts = {
            "/v1/chat/completions": post("chat", self._answer(read_chat)),
            "/v1/completions": post("completion", self._answer(read_completion)),
            "/generate": post("generate", self._answer(read_generate)),
            placed.PATH: post(
                "placed", partial(self._generate, self._placed), kind=placed.CONTENT_TYPE, more=_refused
            ),
            "/tokenize": post("tokenize", partial(self._convert, tokenize)),
            "/detokenize": post("detokenize", partial(self._convert, detokenize)),
        }
        routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
        routes += [Route("/v1/models", self._models), Route("/v1/models/{model:path}", self._model)]
        routes.append(Route(description.PATH, self._description))
        routes += self._probes()
        if not self.settings.http.metrics_port:
            routes.append(Route("/metrics", self._metrics))
        return application(routes)

    def operations(self) -> Starlette:
        """What the second port serves."""
        return application([Route("/metrics", self._metrics), *self._probes()])

    def _doors(self) -> Doors[ServedModel]:
        return Doors(
            lambda scope: self.pod.admit(),
            lambda endpoint, outcome: self.meters.requests.labels(endpoint, outcome).inc(),
            self.settings.http,
            self.settings.limits.deadline_s,
            self.clock,
            self.tracing,
        )

    def _probes(self) -> list[Route]:
        return [
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            Route("/health", self._readyz),
            Route("/version", self._version),
            Route("/lease", lease_endpoint(lambda: self.pod.lease)),
            Route("/handoffs", self._handoffs),
        ]

    # ---- generating ----

    def _answer(self, read: Callable[..., Asked]) -> Callable[[Exchange[ServedModel]], Awaitable[None]]:
        return partial(self._generate, partial(self._asked, read))

    async def _generate(self, read: Reader, exchange: Exchange[ServedModel]) -> None:
        reply, model, span = exchange.reply, exchange.guest, exchange.span
        work = await _off_loop(exchange.body, partial(read, exchange))
        for form in work.forms:
            await self.checker.check(form.grammar, form.field)
        about = (exchange.began, span.header, exchange.deadline)
        with Generation(work, model, self.pod.front, self.meters, self.clock, *about) as generation:
            self.pod.generating.add(generation)
            watch = asyncio.create_task(_watch(exchange.receive, generation))
            try:
                if work.stream:
                    await reply.end(await events(generation, reply.event, self._name))
                else:
                    choices = await generation.whole()
                    timeline = generation.timeline(self._name) if work.timeline else None
                    await reply.json(response(work.shape, choices, model.tokenizer, timeline))
                self.meters.e2e.observe(self.clock.now() - exchange.began)
            finally:
                watch.cancel()
                self.pod.generating.discard(generation)
                exchange.notes |= generation.notes()
                if span.recorded:
                    span.marks(generation.marks())
                    span.tell(model=work.shape.model, **generation.facts())

    def _asked(self, read: Callable[..., Asked], exchange: Exchange[ServedModel]) -> Work:
        facts = self._facts
        fingerprint = facts.fingerprint.hex()
        brought = header(exchange.scope, LAST_EVENT)
        bookmark = read_bookmark(brought) if brought else None
        if bookmark is not None and bookmark.model != mark_of(fingerprint):
            raise CannotContinue(HEADER, "another model gave this answer; ask for a new one")
        id = bookmark.request if bookmark else exchange.id
        asked = read(exchange.body, exchange.guest, id=id, created=made_at(id)).seeded()
        if bookmark is not None:
            asked.check_continued()
        timeline = header(exchange.scope, TIMELINE_HEADER.encode()) == "true"
        requests = [
            replace(one, id=f"{exchange.id}-{place}")
            for place, one in enumerate(asked.requests(facts.page_size, fingerprint))
        ]
        shown = replace(asked, shape=asked.shape_of(fingerprint))
        return of_asked(shown, requests, had=bookmark.had if bookmark else None, timeline=timeline)

    def _placed(self, exchange: Exchange[ServedModel]) -> Work:
        try:
            return of_placed(placed.read(exchange.body), exchange.id, self._facts)
        except ProtocolMismatch as error:
            raise InvalidRequest(str(error)) from error

    @property
    def _name(self) -> str:
        return self.settings.pod.name

    @property
    def _facts(self) -> EngineFacts:
        facts = self.pod.front.facts
        assert facts is not None  # a pod that admits has started
        return facts

    async def _convert(
        self, convert: Callable[[bytes, ServedModel], bytes], exchange: Exchange[ServedModel]
    ) -> None:
        body = exchange.body
        await exchange.reply.json(await _off_loop(body, partial(convert, body, exchange.guest)))

    # ---- telling ----

    async def _description(self, request: HttpRequest) -> Response:
        told = description.describe(version(), description.ENDPOINTS, guarded=False)
        return Response(told, media_type=JSON)

    async def _models(self, request: HttpRequest) -> Response:
        return Response(model_list(self.pod.model), media_type=JSON)

    async def _model(self, request: HttpRequest) -> Response:
        return Response(model_told(self.pod.model, request.path_params["model"]), media_type=JSON)

    async def _livez(self, request: HttpRequest) -> Response:
        return _json({"live": True})

    async def _readyz(self, request: HttpRequest) -> Response:
        """Whether to send work here, and if not, why."""
        refusal = self.pod.refusal()
        told: dict[str, Any] = {"ready": refusal is None, "role": self.settings.role}
        told |= {"model": self.settings.model_names[0], "requests": self.pod.requests}
        if port := self.settings.http.metrics_port:
            told["metrics_port"] = port
        if refusal is None:
            return _json(told)
        return _json({**told, "reason": refusal.code, "message": str(refusal)}, status=503)

    async def _handoffs(self, request: HttpRequest) -> Response:
        """The last hand-overs after the one numbered `after`, and what the cache has saved so far."""
        after = request.query_params.get("after", "0")
        if not is_number(after, 10**18):
            raise InvalidField("after", f"need a number, not {after[:40]!r}")
        front, meters = self.pod.front, self.meters
        told = front.landings(int(after)) if isinstance(front, Receiver) else {"last": 0, "landed": []}
        totals = {"prompt_tokens": meters.tokens("prompt"), "cached_tokens": meters.tokens("cached")}
        return _json({**told, **totals})

    async def _version(self, request: HttpRequest) -> Response:
        return _json({"version": version()})

    async def _metrics(self, request: HttpRequest) -> Response:
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)


async def _off_loop(body: bytes, work: Callable[[], T]) -> T:
    """Do what grows with a body's length where it holds nobody up."""
    return work() if len(body) <= SHORT_BODY_BYTES else await asyncio.to_thread(work)


def _refused(error: Exception) -> list[Header]:
    """Tells a router that nothing was done for its request, so that it may go elsewhere."""
    if isinstance(error, (Refused, WorkerDied)):
        return [(placed.REFUSED_HEADER.encode(), error.code.encode())]
    return []


async def _watch(receive: Receive, generation: Generation) -> None:
    """End the work when its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.fail(Cancelled("the client left"))


def _json(told: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(told), status, media_type=JSON)
