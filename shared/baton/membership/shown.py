"""`GET /lease`: a pod's lease as JSON, for routers that find pods without Redis, and for people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from baton.core.errors import Starting
from baton.state import WorkerLease


def lease_endpoint(
    lease: Callable[[], WorkerLease | None],
) -> Callable[[Request], Awaitable[Response]]:
    """`lease` answers None until the pod is ready."""

    async def show(request: Request) -> Response:
        found = lease()
        if found is None:
            raise Starting("the worker is not ready: it has no lease yet")
        return Response(msgspec.json.encode(found), media_type="application/json")

    return show
