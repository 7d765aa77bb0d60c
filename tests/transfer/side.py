"""One process's ranks, for tests: pools in host memory with real agents and movers over them.

`Side` is used here directly and, in another process, through `Far`: a pipe that carries method calls.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from baton.transfer.agent import Agent
from baton.transfer.layout import PoolLayout, Span
from baton.transfer.memory import Kind, Region
from baton.transfer.messages import PeerInfo
from baton.transfer.mover import Mover
from baton.transfer.orders import Counts, Limits, Pull, Push, Report
from baton.transfer.path import Verdict

WAIT_S = 20.0
HEADS = 4
LAYOUT = PoolLayout(
    pages=24,
    layers=2,
    page_size=4,
    head_dim=8,
    dtype="bfloat16",
    kv_heads=HEADS,
    total_kv_heads=HEADS,
    model="m",
)
WHOLE = Span(0, 0, HEADS)

_attempts = (f"attempt-{n}" for n in itertools.count())


def push(peer: str, local: Sequence[int], remote: Sequence[int], **changes: object) -> Push:
    order = Push(
        attempt=next(_attempts),
        chunk=0,
        last=True,
        peer=peer,
        span=WHOLE,
        local_pages=local,
        remote_pages=remote,
        timeout_s=20.0,
    )
    return replace(order, **changes)


def pull(peer: str, local: Sequence[int], remote: Sequence[int], **changes: object) -> Pull:
    made = push(peer, local, remote, **changes)
    return Pull(**{each.name: getattr(made, each.name) for each in fields(Pull)})


@dataclass
class Rank:
    pool: np.ndarray[Any, np.dtype[np.uint8]]
    agent: Agent
    mover: Mover
    reports: SimpleQueue[Report]
    kept: list[Report] = field(default_factory=list)
    """Reports that nobody has asked for yet."""


class Side:
    def __init__(self) -> None:
        self.ranks: dict[str, Rank] = {}

    def open(self, name: str, layout: PoolLayout, rank: int = 0, limits: Limits | None = None) -> PeerInfo:
        pool = np.zeros(layout.bytes, dtype=np.uint8)
        region = Region(address=pool.ctypes.data, bytes=layout.bytes, kind=Kind.HOST)
        agent = Agent(layout, region, rank=rank)
        info = agent.info()
        reports: SimpleQueue[Report] = SimpleQueue()
        mover = Mover(agent, reports.put, limits=limits)
        mover.start()
        self.ranks[name] = Rank(pool, agent, mover, reports)
        return info

    def close(self, name: str) -> None:
        self.ranks.pop(name).mover.close()

    def close_all(self) -> None:
        for name in tuple(self.ranks):
            self.close(name)

    def put(self, name: str, data: bytes) -> None:
        self.ranks[name].pool[:] = np.frombuffer(data, dtype=np.uint8)

    def get(self, name: str) -> bytes:
        return self.ranks[name].pool.tobytes()

    def is_all(self, name: str, value: int) -> bool:
        """Whether every byte but the scratch page's has this value."""
        rank = self.ranks[name]
        return bool((rank.pool[rank.agent.layout.page_bytes :] == value).all())

    def meet(self, name: str, info: PeerInfo) -> Verdict:
        return self.ranks[name].mover.add_peer(info).result(WAIT_S)

    def drop(self, name: str, incarnation: str) -> None:
        self.ranks[name].mover.drop_peer(incarnation).result(WAIT_S)

    def move(self, name: str, order: Push | Pull) -> None:
        self.ranks[name].mover.move(order)

    def expect(self, name: str, attempt: str, sources: dict[str, int], timeout_s: float = WAIT_S) -> None:
        self.ranks[name].mover.expect(attempt, sources, timeout_s)

    def forget(self, name: str, attempt: str) -> None:
        self.ranks[name].mover.forget(attempt)

    def counts(self, name: str) -> Counts:
        return self.ranks[name].mover.counts()

    def wait(self, name: str, kind: type[Report], timeout_s: float = WAIT_S) -> Report:
        """The next report of a kind; those of others wait for their turn."""
        rank = self.ranks[name]
        for at, report in enumerate(rank.kept):
            if isinstance(report, kind):
                return rank.kept.pop(at)
        while True:
            try:
                report = rank.reports.get(timeout=timeout_s)
            except Empty:
                raise AssertionError(f"no {kind.__name__} within {timeout_s} s; kept {rank.kept}") from None
            if isinstance(report, kind):
                return report
            rank.kept.append(report)

    def rest(self, name: str) -> list[Report]:
        """All reports that are there and were not asked for."""
        rank = self.ranks[name]
        kept, rank.kept = rank.kept, []
        while not rank.reports.empty():
            kept.append(rank.reports.get())
        return kept


def _serve(pipe: Connection) -> None:
    side = Side()
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            pipe.send((True, getattr(side, method)(*args)))
        except Exception as error:
            pipe.send((False, error))


class Far:
    """A `Side` in another process."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._pipe.send((method, args))
            if not self._pipe.poll(3 * WAIT_S):
                raise AssertionError(f"the far side does not answer {method}")
            fine, value = self._pipe.recv()
            if not fine:
                raise value
            return value

        return call

    def pause(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until every thread of it has stopped

    def go_on(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(WAIT_S)
        self._pipe.close()
        self._process.close()
