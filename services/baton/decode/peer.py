"""One prefill worker, as a decode pod sees it: a connection that is kept, and whether it is alive.

It says hello until it is answered, pings, permits it to write here for as long as it is believed to live,
and notices silence and new incarnations. Contact is made
when the peer is configured or its lease appears, not with the first request. What it hears it passes to
its owner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any, Protocol

import msgspec
import zmq
import zmq.asyncio

from baton.core.errors import ProtocolMismatch
from baton.core.ids import session_id
from baton.protocol import pods
from baton.protocol.secret import secure

log = logging.getLogger("baton.decode")

RETIRED_KEPT = 16
GOODBYE_MS = 100
"""How long the last message may take to leave, if there is a worker to take it."""


class Owner(Protocol):
    def joined(self, peer: Peer, hello: pods.Hello) -> bool:
        """Whether it may be used: no other peer leads to the same worker."""
        ...

    def heard(self, peer: Peer, message: pods.PodMessage) -> None: ...

    def gone(self, peer: Peer, worker: str, reason: str) -> None: ...


class Peer:
    def __init__(self, address: str, hello: pods.Hello, secret: str = "", pod: str = "") -> None:
        """`address`: of the prefill worker's desk, as ZMQ writes it. `pod`: its pod's id, where a lease said
        it; else the worker says it."""
        self.address = address
        self.pod = pod
        self.hello = msgspec.structs.replace(hello, session=session_id())
        """Its session is another after each loss, and begins with the same name."""
        self._losses = 0
        self.owner: Owner | None = None
        self.worker = ""
        """The incarnation that answered; empty while there is none."""
        self.waiting = 0
        """Requests queued there, as it last said."""
        self.draining = False
        """It says that it takes no new legs."""
        self.leaving = False
        """The same, as its lease has it; also when there is no lease any more."""
        self.met = False
        """The path to it has been measured."""
        self.permitted_at = float("-inf")
        """When it was last given leave to write here."""
        self._last = ""
        """The last incarnation that answered."""
        self._retired: deque[str] = deque(maxlen=RETIRED_KEPT)
        """Incarnations that were replaced: they are not believed any more."""
        self._secret = secret
        self._heard_at = float("-inf")
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """It has answered, and is heard of."""
        return bool(self.worker)

    @property
    def takes_work(self) -> bool:
        return self.ready and not self.draining and not self.leaving

    async def __aenter__(self) -> Peer:
        self._context = zmq.asyncio.Context()
        socket: Any = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, "[" in self.address)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        secure(socket, self._secret, server=False)
        socket.connect(self.address)
        self._socket = socket
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_in_touch())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """It is told, so that it ends at once what it does for us."""
        there = time.monotonic() - self._heard_at < pods.SILENCE_S
        self.drop("it is no peer any more")
        if there:
            self.send(pods.Refused("this decode worker needs no more of it"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._context is not None:
            self._context.destroy(linger=GOODBYE_MS if there else 0)
            self._socket = None

    def send(self, message: pods.Message) -> None:
        """Queue a message; one that cannot go, or to a peer that is gone, is noticed by its silence."""
        assert self._socket is not None, "the peer was not entered"
        sent: Any = self._socket.send(pods.encode(message), zmq.NOBLOCK)
        if sent.done():
            sent.exception()  # seen: or asyncio would complain of it

    def drop(self, reason: str) -> None:
        """Take the peer for lost until it answers another hello."""
        worker, self.worker = self.worker, ""
        self._losses += 1
        session = f"{pods.asker(self.hello.session)}.{self._losses}"
        self.hello = msgspec.structs.replace(self.hello, session=session)
        self.met = self.draining = False
        if worker and self.owner is not None:
            self.owner.gone(self, worker, reason)

    def expect(self, incarnation: str) -> None:
        """This one runs now, as its lease says: an earlier one is lost, whether it fell silent or not."""
        if self._last and incarnation > self._last:  # the names of a pod's incarnations sort by age
            self._retire()

    def _retire(self) -> None:
        if self._last not in self._retired:
            self._retired.append(self._last)
        self.drop("it was restarted")

    async def _listen(self) -> None:
        assert self._socket is not None
        while True:
            data = await self._socket.recv()
            self._heard_at = time.monotonic()
            try:
                self._take(pods.read(data))
            except ProtocolMismatch as error:
                log.error("%s: %s", self.address, error)
            except Exception:  # a mistake of ours: what comes after it is heard all the same
                log.exception("a message of %s was not taken", self.address)

    def _take(self, message: pods.PodMessage) -> None:
        match message:
            case pods.Hello():
                self._meet(message)
            case pods.Refused(reason=reason):
                log.warning("%s refuses: %s", self.address, reason)
                self.drop(reason)
            case pods.Ping(waiting=waiting, draining=draining):
                self.waiting, self.draining = waiting, draining
            case pods.Renew(worker=worker, at=at):
                if worker == self.worker:
                    self.permitted_at = time.monotonic()
                    self.send(pods.Renewed(worker, at))
            case _ if self.owner is not None:
                self.owner.heard(self, message)

    def _meet(self, hello: pods.Hello) -> None:
        if hello.worker == self.worker or hello.worker in self._retired:
            return
        if hello.worker == self._last and hello.session != self.hello.session:
            return  # it answers to before it was taken for lost: legs of then are still under way there
        reason = pods.unfit(self.hello, hello)
        if reason:
            log.error("%s cannot be used: %s", self.address, reason)
            return
        if self._last and self._last != hello.worker:
            self._retire()
        self.pod = hello.pod or self.pod
        if self.owner is None or self.owner.joined(self, hello):
            self.worker = self._last = hello.worker

    async def _keep_in_touch(self) -> None:
        while True:
            if self.ready and time.monotonic() - self._heard_at > pods.SILENCE_S:
                self.drop("it fell silent")
            self.send(pods.Ping() if self.ready else self.hello)
            await asyncio.sleep(pods.HEARTBEAT_S / 2)

    def __repr__(self) -> str:
        return f"<Peer {self.pod or self.address} {self.worker or 'not ready'}, {self.waiting} waiting>"
