"""One process's way to the others behind its port: over the loopback, to ports that their parent keeps open.

Whoever asks shows a word that only they know, since what they tell is an operator's. A process that is being
started again does not answer in time, and is left out. Only the others are asked: a process knows its own.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import Scope

from baton.core.errors import PeerLost, Unauthenticated
from baton.http.body import header
from baton.router.siblings.told import Message, Unpacking
from baton.router.wire import Origin, Pool, fetch
from baton.router.wire.fetch import get

SECONDS = 2.0
"""How long a sibling may take to answer."""
SILENCE_S = 3.0
"""Who is followed and has said nothing for so long is lost: there is something to tell each second."""
HEADER = "x-baton-sibling"


@dataclass(frozen=True, slots=True)
class Siblings:
    """`ports`: of all, by number; none where there is one process alone. `number` is this one's."""

    pool: Pool
    ports: tuple[int, ...] = ()
    number: int = 0
    word: str = ""

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(number for number in range(len(self.ports)) if number != self.number)

    def check(self, scope: Scope) -> None:
        """Raise unless a sibling asks."""
        shown = header(scope, HEADER.encode()) or ""
        if not self.word or not hmac.compare_digest(shown.encode(), self.word.encode()):
            raise Unauthenticated("only processes that share this one's port are told")

    async def ask(self, path: str) -> dict[int, bytes]:
        """Of those who answered."""
        others = self.others
        told = await asyncio.gather(*(self._one(number, path) for number in others))
        return {number: body for number, body in zip(others, told, strict=True) if body is not None}

    async def follow(self, number: int, path: str) -> AsyncIterator[Message]:
        """What it tells, until it ends or is lost; that is a PeerLost."""
        origin, unpacking = self._origin(number), Unpacking()
        try:
            async with self.pool.lend(origin, fresh=True) as connection:
                async with asyncio.timeout(SECONDS):
                    head = await connection.ask(get(origin, path, self._headers))
                if head.status != 200:
                    raise PeerLost(f"process {number} answers {path} with {head.status}")
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        data = await connection.read()
                    if not data:
                        raise PeerLost(f"process {number} says no more")
                    for message in unpacking.feed(data):
                        yield message
        except TimeoutError as error:
            raise PeerLost(f"process {number} has fallen silent") from error

    async def _one(self, number: int, path: str) -> bytes | None:
        try:
            head, body = await fetch(
                self.pool, self._origin(number), path, seconds=SECONDS, headers=self._headers
            )
        except PeerLost:
            return None
        return body if head.status == 200 else None

    def _origin(self, number: int) -> Origin:
        return Origin("127.0.0.1", self.ports[number])

    @property
    def _headers(self) -> dict[str, str]:
        return {HEADER: self.word}
