"""Ends work whose client has gone: whatever it waits for, within a moment of the connection's end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Receive

from baton.core.errors import Cancelled


@contextlib.asynccontextmanager
async def while_present(receive: Receive) -> AsyncIterator[None]:
    """Raises Cancelled inside once the client has left. Leave it before waiting for anything after the
    answer's end, which looks the same. The request's body must have been read."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone or task.uncancel() > 0:
            raise
        raise Cancelled("the client left") from None
    finally:
        watching.cancel()
