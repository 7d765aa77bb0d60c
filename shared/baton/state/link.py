"""One process's connection to Redis: every call has a deadline, and one error stands for all of Redis's.

A process makes one `Link` in its `__main__` and hands it to its keeper, writer, board, reader and load
board; they alone call it. It notes outages for metrics and readiness, logs each once, and retries
nothing: whoever asks has a loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from redis.exceptions import ReadOnlyError, RedisError

from baton.core.clock import Clock, SystemClock
from baton.core.errors import StateUnreachable
from baton.state.address import Connected, connect
from baton.state.keys import Keys
from baton.state.settings import StateSettings

log = logging.getLogger(__name__)

Command = Sequence[str | bytes | int]


@dataclass(frozen=True, slots=True)
class LinkHealth:
    """How this process stands with Redis."""

    reachable: bool
    """The last call was answered. False before the first."""
    silent_s: float
    """Seconds since the last answer, or since the link was made."""
    failures: int
    """Calls that failed since the start."""
    outages: int
    """Times that Redis went from reachable to not."""
    error: str
    """What the last failure said; empty while reachable."""


class Link:
    """Made on the event loop that uses it."""

    def __init__(
        self,
        settings: StateSettings,
        *,
        name: str = "baton",
        clock: Clock | None = None,
        connected: Connected | None = None,
    ) -> None:
        """`connected`: what is asked, in place of the Redis that the settings name."""
        self.clock = clock or SystemClock()
        self.keys = Keys(settings.prefix)
        self._deadline_s = settings.deadline_s
        self._connected = connected or connect(settings, name)
        self._answered = self.clock.now()
        self._reachable: bool | None = None
        self._failures = 0
        self._outages = 0
        self._error = ""

    def __repr__(self) -> str:
        return f"Link({self._connected.shown}, {'reachable' if self._reachable else 'unreachable'})"

    @property
    def clustered(self) -> bool:
        """Keys lie on several servers: commands name one key each and never block."""
        return self._connected.clustered

    @property
    def health(self) -> LinkHealth:
        return LinkHealth(
            reachable=bool(self._reachable),
            silent_s=self.clock.now() - self._answered,
            failures=self._failures,
            outages=self._outages,
            error=self._error,
        )

    async def ask(self, *command: str | bytes | int, wait_s: float = 0.0) -> Any:
        """One command's reply, within the deadline and `wait_s` more. StateUnreachable if it fails."""
        try:
            async with asyncio.timeout(self._deadline_s + wait_s):
                reply = await self._connected.client.execute_command(*command)
        except (RedisError, OSError, TimeoutError) as error:
            raise await self._failed(command, error) from error
        self._succeeded()
        return reply

    async def ask_all(
        self, commands: Sequence[Command], *, wait_s: float = 0.0, keep_errors: bool = False
    ) -> list[Any]:
        """The replies to commands sent together, in order; not a transaction. StateUnreachable if any
        fails, unless `keep_errors`: then what the server refused stands among the replies as an exception."""
        try:
            async with asyncio.timeout(self._deadline_s + wait_s):
                pipeline = self._connected.client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            raise await self._failed(commands[0], error) from error
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception) and not keep_errors:
                raise await self._failed(command, reply) from reply
        self._succeeded()
        return replies

    async def close(self) -> None:
        for closer in self._connected.closers:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await closer()
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("a connection did not close well", extra={"cause": repr(error)})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _succeeded(self) -> None:
        if self._reachable is False:
            silent_s = self.clock.now() - self._answered
            log.info("Redis answers again", extra={"silent_s": round(silent_s, 3)})
        self._reachable = True
        self._answered = self.clock.now()
        self._error = ""

    async def _failed(self, command: Command, error: Exception) -> StateUnreachable:
        self._failures += 1
        self._error = f"{command[0]!s}: {type(error).__name__}: {error}".rstrip(": ")
        if self._reachable is not False:
            self._outages += bool(self._reachable)
            log.warning(
                "Redis does not answer; going on with what is known",
                extra={"address": self._connected.shown, "cause": self._error},
            )
        self._reachable = False
        if isinstance(error, ReadOnlyError) and self._connected.forget is not None:
            # The name may lead to the new master already; only a new connection will follow it.
            await self._connected.forget()
        return StateUnreachable(self._error)
