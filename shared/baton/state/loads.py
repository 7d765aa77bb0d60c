"""What every router has in flight on every worker, shared a few times a second.

Leases tell a worker's load as of its last beat; between two beats several routers would all choose the
same idle worker. Each router therefore publishes what it has sent where, and reads what the others have.
Holding and releasing are plain arithmetic; placement reads sums that are kept ready. While Redis is
gone the others' figures fade within a second, and a router goes on with its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import msgspec

from baton.core.errors import StateUnreachable
from baton.state.link import Command, Link
from baton.state.rounds import Rounds

INTERVAL_S = 0.2
EXPIRY_S = 1.0
FORGET_S = 60.0
"""A router that has been silent for so long is removed by any other."""


class InFlight(NamedTuple):
    requests: int = 0
    tokens: int = 0
    """Whatever the routers count by: prompt tokens still to be computed, as a rule."""


class _Figures(msgspec.Struct, frozen=True, array_like=True):
    """What one router publishes."""

    count: int
    """Grows each time: a reader takes figures as fresh while it does."""
    expiry_ms: int
    workers: dict[str, tuple[int, int]]


@dataclass(slots=True)
class _Router:
    figures: _Figures
    renewed_at: float


class Hold:
    """One leg on its way. Release it on every path; releasing twice does nothing."""

    __slots__ = ("_board", "_requests", "_tokens", "_worker")

    def __init__(self, board: LoadBoard, worker: str, tokens: int) -> None:
        self._board = board
        self._worker = worker
        self._requests = 1
        self._tokens = tokens

    def release_tokens(self) -> None:
        """The prompt has been computed; the request goes on."""
        self._board._add(self._worker, 0, -self._tokens)
        self._tokens = 0

    def release(self) -> None:
        self._board._add(self._worker, -self._requests, -self._tokens)
        self._requests = self._tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class LoadBoard:
    """`async with`, for as long as the router places requests."""

    def __init__(
        self,
        link: Link,
        router: str,
        *,
        interval_s: float = INTERVAL_S,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        """`router` names this run of this router among all routers."""
        self._link = link
        self._clock = link.clock
        self._router = router
        self._interval_s = interval_s
        self._expiry_s = expiry_s
        self._mine: dict[str, InFlight] = {}
        self._routers: dict[str, _Router] = {}
        self._others: Mapping[str, InFlight] = MappingProxyType({})
        self._count = 0
        self._read_at = self._clock.now()
        self._rounds = Rounds(f"loads of {router}", self._round, self._clock)

    def __repr__(self) -> str:
        return f"LoadBoard({self._router}, {len(self._mine)} workers in use, {self.routers} other routers)"

    @property
    def name(self) -> str:
        """This run of this router, among all routers."""
        return self._router

    @property
    def mine(self) -> Mapping[str, InFlight]:
        return MappingProxyType(self._mine)

    @property
    def others(self) -> Mapping[str, InFlight]:
        """Sums over the other routers; a worker that nobody uses is not in it."""
        return self._others

    @property
    def routers(self) -> int:
        """How many other routers are heard of."""
        now = self._clock.now()
        return sum(self._fresh(one, now) for one in self._routers.values())

    @property
    def read_s(self) -> float:
        """Seconds since the others' figures were last read."""
        return self._clock.now() - self._read_at

    def total(self, worker: str) -> InFlight:
        """Over all routers, this one included."""
        mine, others = self._mine.get(worker, InFlight()), self._others.get(worker, InFlight())
        return InFlight(mine.requests + others.requests, mine.tokens + others.tokens)

    def hold(self, worker: str, tokens: int = 0) -> Hold:
        """Count one request, and tokens that it costs, on a worker until released."""
        self._add(worker, 1, tokens)
        return Hold(self, worker, tokens)

    def _add(self, worker: str, requests: int, tokens: int) -> None:
        before = self._mine.get(worker, InFlight())
        after = InFlight(before.requests + requests, before.tokens + tokens)
        if any(after):
            self._mine[worker] = after
        else:
            self._mine.pop(worker, None)

    async def __aenter__(self) -> Self:
        self._rounds.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rounds.close()
        with suppress(StateUnreachable):  # Then the figures fade by themselves.
            await self._link.ask("HDEL", self._link.keys.loads, self._router)

    async def _round(self) -> float:
        key = self._link.keys.loads
        self._count += 1
        workers = {worker: tuple(one) for worker, one in self._mine.items()}
        figures = msgspec.msgpack.encode((self._count, round(self._expiry_s * 1000), workers))
        try:
            *_, everybody = await self._link.ask_all(
                [
                    ("HSET", key, self._router, figures),
                    ("PEXPIRE", key, round(FORGET_S * 1000)),
                    ("HGETALL", key),
                ]
            )
        except StateUnreachable:
            self._sum()
            raise
        self._read_at = self._clock.now()
        forgotten = self._read(everybody)
        self._sum()
        if forgotten:
            drop: Command = ("HDEL", key, *forgotten)
            await self._link.ask(*drop)
        return self._interval_s

    def _read(self, everybody: Mapping[bytes, bytes]) -> list[str]:
        """Note who has published since; the routers that have not for long."""
        now = self._clock.now()
        heard = {name.decode(errors="replace"): data for name, data in everybody.items()}
        heard.pop(self._router, None)
        for name in self._routers.keys() - heard.keys():
            del self._routers[name]
        for name, data in heard.items():
            try:
                figures = msgspec.msgpack.decode(data, type=_Figures)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                figures = _Figures(-1, 0, {})  # Another release's: not counted, and in time forgotten.
            known = self._routers.get(name)
            if known is None:
                self._routers[name] = _Router(figures, now)
            elif known.figures.count != figures.count:
                known.figures, known.renewed_at = figures, now
        return [name for name, one in self._routers.items() if now - one.renewed_at > FORGET_S]

    def _sum(self) -> None:
        now = self._clock.now()
        requests: dict[str, int] = {}
        tokens: dict[str, int] = {}
        for router in self._routers.values():
            if self._fresh(router, now):
                for worker, (some, more) in router.figures.workers.items():
                    requests[worker] = requests.get(worker, 0) + some
                    tokens[worker] = tokens.get(worker, 0) + more
        self._others = MappingProxyType(
            {worker: InFlight(requests[worker], tokens[worker]) for worker in requests}
        )

    @staticmethod
    def _fresh(router: _Router, now: float) -> bool:
        return now - router.renewed_at <= router.figures.expiry_ms / 1000
