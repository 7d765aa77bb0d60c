"""A starlette application whose every refusal has OpenAI's shape, also for paths and methods it lacks."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from baton.core.errors import BatonError, InvalidRequest, UnknownPath, WrongMethod
from baton.http.reply import failure_headers
from baton.openai.failures import error_body, status_of

log = logging.getLogger(__name__)


def application(routes: Sequence[BaseRoute]) -> Starlette:
    return Starlette(
        routes=routes,
        exception_handlers={BatonError: _answer, HTTPException: _translate, Exception: _answer},
    )


def _answer(request: Request, error: Exception) -> Response:
    headers = {name.decode(): value.decode() for name, value in failure_headers(error)}
    return Response(error_body(error), status_of(error), headers, "application/json")


def _translate(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known: dict[int, type[InvalidRequest]] = {404: UnknownPath, 405: WrongMethod}
    made = known.get(error.status_code, InvalidRequest)(f"{request.method} {request.url.path} is not served")
    answer = _answer(request, made)
    answer.headers.update(error.headers or {})  # which methods are allowed
    return answer
