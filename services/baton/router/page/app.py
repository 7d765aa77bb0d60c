"""The page's paths: /ui/ and its files, /ui/feed. No site may frame it; it loads nothing from any.

The files tell nothing and are anybody's; the feed is an operator's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Scope

from baton.core.errors import QueueFull, UnknownPath
from baton.router.page.feed import Feed
from baton.router.page.sight import Sight

KINDS = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
GUARD = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
EVENTS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would gather events
}


class Page:
    def __init__(self, feed: Feed, sight: Sight, check: Callable[[Scope], None]) -> None:
        """`check` raises unless whoever asks may see what goes on."""
        self._feed = feed
        self.sight = sight
        self._check = check
        folder = resources.files(__package__).joinpath("static")
        self._files = {name: folder.joinpath(name).read_bytes() for name in KINDS}

    def close(self) -> None:
        """Let every page that is open go: it asks again, another router perhaps. Siblings likewise."""
        self._feed.close()
        self.sight.close()

    def routes(self) -> list[Route]:
        return [
            Route("/ui", self._to_folder),
            Route("/ui/", self._file),
            Route("/ui/feed", self._watch),
            Route("/ui/{name}", self._file),
        ]

    async def _to_folder(self, request: Request) -> Response:
        return RedirectResponse("ui/")  # relative: the router may stand behind a path

    async def _file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            raise UnknownPath(f"{request.url.path} is not served")
        return Response(self._files[name], headers={**GUARD, "content-type": KINDS[name]})

    async def _watch(self, request: Request) -> Response:
        self._check(request.scope)
        if self._feed.full:
            raise QueueFull("as many pages are open as this router serves")
        return StreamingResponse(self._feed.watch(), headers=EVENTS)
