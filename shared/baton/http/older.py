"""Answers to clients of HTTP/1.0: ApacheBench, some probes and proxies.

They know no chunks. To them an answer without a length, as a stream is, goes as it is, and ends with the
connection; uvicorn would send it in chunks all the same.
"""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

OLDER = "1.0"


def unframed(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The application, for the one request of `cycle`."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        lengthless = False

        async def tell(message: Message) -> None:
            nonlocal lengthless
            if message["type"] == "http.response.start":
                lengthless = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if lengthless:
                    cycle.chunked_encoding = False  # None is what uvicorn makes chunks of
            elif lengthless:
                cycle.expected_content_length = len(message.get("body", b""))  # as if each was the last
            await send(message)

        await app(scope, receive, tell)  # type: ignore[arg-type]

    return serve  # type: ignore[return-value]  # uvicorn has its own names for the same messages
