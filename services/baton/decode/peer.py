"""One prefill worker, as a decode pod sees it: a connection that is kept, and whether it is alive.

It says hello until it is answered, pings, and notices silence and new incarnations. Contact is made
when the peer is configured, not with the first request. What it hears it passes to its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any, Protocol

import zmq
import zmq.asyncio

from baton.core.errors import ProtocolMismatch
from baton.protocol import pods
from baton.protocol.secret import secure

log = logging.getLogger("baton.decode")


class Owner(Protocol):
    def joined(self, peer: Peer, hello: pods.Hello) -> None: ...

    def heard(self, peer: Peer, message: pods.PodMessage) -> None: ...

    def gone(self, peer: Peer, worker: str, reason: str) -> None: ...


class Peer:
    def __init__(self, address: str, hello: pods.Hello, secret: str = "") -> None:
        """`address`: of the prefill worker's desk, as ZMQ writes it."""
        self.address = address
        self.hello = hello
        self.owner: Owner | None = None
        self.worker = ""
        """The incarnation that answered; empty while there is none."""
        self.waiting = 0
        """Requests queued there, as it last said."""
        self._secret = secret
        self._heard_at = 0.0
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        return bool(self.worker)

    async def __aenter__(self) -> Peer:
        self._context = zmq.asyncio.Context()
        socket: Any = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        secure(socket, self._secret, server=False)
        socket.connect(self.address)
        self._socket = socket
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_in_touch())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._context is not None:
            self._context.destroy(linger=0)

    def send(self, message: pods.Message) -> None:
        """Queue a message; one to a peer that is gone is noticed by its silence."""
        assert self._socket is not None, "the peer was not entered"
        with contextlib.suppress(zmq.Again):
            self._socket.send(pods.encode(message), zmq.NOBLOCK)

    def drop(self, reason: str) -> None:
        """Take the peer for lost until it answers another hello."""
        worker, self.worker = self.worker, ""
        if worker and self.owner is not None:
            self.owner.gone(self, worker, reason)

    async def _listen(self) -> None:
        assert self._socket is not None
        while True:
            data = await self._socket.recv()
            self._heard_at = time.monotonic()
            try:
                self._take(pods.read(data))
            except ProtocolMismatch as error:
                log.error("%s: %s", self.address, error)

    def _take(self, message: pods.PodMessage) -> None:
        match message:
            case pods.Hello():
                self._meet(message)
            case pods.Refused(reason=reason):
                log.warning("%s refuses: %s", self.address, reason)
                self.drop(reason)
            case pods.Ping(waiting=waiting):
                self.waiting = waiting
            case _ if self.owner is not None:
                self.owner.heard(self, message)

    def _meet(self, hello: pods.Hello) -> None:
        if hello.worker == self.worker:
            return
        reason = pods.unfit(self.hello, hello)
        if reason:
            log.error("%s cannot be used: %s", self.address, reason)
            return
        self.drop("it was restarted")
        self.worker = hello.worker
        if self.owner is not None:
            self.owner.joined(self, hello)

    async def _keep_in_touch(self) -> None:
        while True:
            if self.ready and time.monotonic() - self._heard_at > pods.SILENCE_S:
                self.drop("it fell silent")
            self.send(pods.Ping() if self.ready else self.hello)
            await asyncio.sleep(pods.HEARTBEAT_S / 2)

    def __repr__(self) -> str:
        return f"<Peer {self.address} {self.worker or 'not ready'}, {self.waiting} waiting>"
