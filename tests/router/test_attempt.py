"""One attempt at a pod that is there no more, against a server that says exactly what a test wants."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from baton.core.errors import PeerLost, Unreached
from baton.http import Reply
from baton.router.relay.attempt import Attempt, head_of
from baton.router.wire import Origin, Pool

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


async def nothing() -> Message:
    return {"type": "http.disconnect"}


async def unheard(message: Message) -> None:
    return None


def tried(answers: int) -> list[object]:
    """What comes of requests to a pod that answers so many and dies of the next one."""
    outcomes: list[object] = []

    async def play() -> None:
        async def pod(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(answers):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
            await reader.readuntil(b"\r\n\r\n")
            server.close()
            writer.close()

        server = await asyncio.start_server(pod, "127.0.0.1", 0)
        origin, pool = Origin("127.0.0.1", server.sockets[0].getsockname()[1]), Pool()
        for _ in range(answers + 2):
            attempt = Attempt(pool, origin, Reply(nothing, unheard, "req-1"), lambda data: None)
            try:
                outcomes.append(await attempt.whole(head_of(origin, "req-1", 10.0, 0)))
            except PeerLost as error:
                outcomes.append(type(error))
        pool.close()

    asyncio.run(asyncio.wait_for(play(), 20))
    return outcomes


@pytest.mark.parametrize("answers", [0, 2])
def test_a_pod_that_dies_of_a_request_has_lost_it_on_a_kept_connection_too(answers: int) -> None:
    """What cannot be reached is no try, so a request that kills pods would go on to all of them."""
    assert tried(answers) == [b"{}"] * answers + [PeerLost, Unreached]
