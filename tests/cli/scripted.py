"""A real HTTP server that answers as it is told to, path by path; for what no good server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Scripted:
    """Use as `with`. `asked`: the path and JSON body of every request."""

    def __init__(self, answers: Mapping[str, list[Answer]]) -> None:
        """The last answer of a path is given for ever."""
        self.answers = {path: list(several) for path, several in answers.items()}
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(size)
                outer.asked.append((self.path, json.loads(body) if body else None))
                outer.headers.append(dict(self.headers))
                several = outer.answers.get(self.path) or [Answer(b"{}", 404)]
                answer = several.pop(0) if len(several) > 1 else several[0]
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_POST = do_GET

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Scripted:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def events(*data: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(one)}\n\n" for one in data]
    return "".join([*lines, *(["data: [DONE]\n\n"] if done else [])]).encode()


def delta(text: str, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None} | more]}
