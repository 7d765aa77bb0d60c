"""An API server that knows pods and nothing else: lists, watches, bookmarks, forgets, and can be cut off."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from baton.testing.simulated.serving import Line


class ApiServer:
    """Made and used on one event loop."""

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.pods: dict[str, dict[str, Any]] = {}
        self.version = 100
        self.oldest = 0
        """Watches cannot go on from before this version."""
        self.lists = self.watches = 0
        self.paths: list[str] = []
        self.port = 0
        self._history: list[tuple[int, bytes]] = []
        self._lines: set[Line] = set()
        self._watching: set[Line] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._line, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()
        async with asyncio.timeout(5):
            while self._lines:  # until the loop has closed their sockets
                await asyncio.sleep(0.01)

    async def cut(self) -> None:
        """Every connection, as a restart of the server would."""
        for line in tuple(self._lines):
            line.abort()

    # ---- what happens to pods ----

    async def add(self, name: str, port: int, *, ready: bool = True) -> None:
        self.pods[name] = {
            "metadata": {"name": name, "uid": f"uid-{name}", "labels": {"app": "baton"}},
            "spec": {"containers": [{"name": "x", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            },
        }
        self._tell("ADDED", self.pods[name])

    async def set_ready(self, name: str, ready: bool) -> None:
        self.pods[name]["status"]["conditions"][0]["status"] = "True" if ready else "False"
        self._tell("MODIFIED", self.pods[name])

    async def leave(self, name: str) -> None:
        """Begins to be deleted."""
        self.pods[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self._tell("MODIFIED", self.pods[name])

    async def delete(self, name: str) -> None:
        self._tell("DELETED", self.pods.pop(name))

    async def bookmark(self) -> None:
        self._tell("BOOKMARK", {"kind": "Pod", "metadata": {}})

    async def forget(self) -> None:
        """What happened so far cannot be watched from any more."""
        self.version += 1
        self.oldest = self.version

    async def expire(self) -> None:
        """Tell open watches that they are too far behind."""
        status = {"kind": "Status", "code": 410, "message": "too old resource version"}
        for line in self._watching:
            line.chunk(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")

    def end_watches(self) -> int:
        """As after their `timeoutSeconds`. How many there were."""
        ended = len(self._watching)
        for line in self._watching:
            line.end()
        self._watching.clear()
        return ended

    def _tell(self, kind: str, pod: dict[str, Any]) -> None:
        self.version += 1
        pod["metadata"]["resourceVersion"] = str(self.version)
        event = json.dumps({"type": kind, "object": pod}).encode() + b"\n"
        self._history.append((self.version, event))
        for line in self._watching:
            line.chunk(event[:20])  # lines may come in pieces
            line.chunk(event[20:])

    # ---- what is asked ----

    def _line(self) -> Line:
        line = Line(self._asked, self._left)
        self._lines.add(line)
        if self._server is not None and not self._server.is_serving():
            line.abort()
        return line

    def _left(self, line: Line) -> None:
        self._lines.discard(line)
        self._watching.discard(line)

    def _asked(self, line: Line) -> None:
        parts = urlsplit(line.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.paths.append(line.path)
        if self.token and line.headers.get(b"authorization") != f"Bearer {self.token}".encode():
            line.answer(403, b'{"kind":"Status","code":403,"message":"forbidden"}')
        elif parts.path != "/api/v1/namespaces/llm/pods" or query.get("labelSelector") != "app=baton":
            line.answer(404, b"{}")
        elif "watch" in query:
            self._watch(line, int(query["resourceVersion"]))
        else:
            self.lists += 1
            body = {"metadata": {"resourceVersion": str(self.version)}, "items": list(self.pods.values())}
            line.answer(200, json.dumps(body).encode())

    def _watch(self, line: Line, since: int) -> None:
        self.watches += 1
        if since < self.oldest:
            line.answer(410, b'{"kind":"Status","code":410}')
            return
        line.begin()
        for version, event in self._history:
            if version > since:
                line.chunk(event)
        self._watching.add(line)
