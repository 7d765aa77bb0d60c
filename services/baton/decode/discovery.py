"""Finds prefill pods by their leases, and keeps one peer for each of them.

A decode pod holds one open while it serves, if it has a Redis. A pod whose lease appears is contacted at
once; one that drains, or whose lease ends, gets no new work and is parted from when nothing of it is under
way; another incarnation under a known id takes the place of the one before, which is lost from then on.
"""

from __future__ import annotations

import asyncio
import logging

import zmq

from baton.decode.handoff import Handoffs
from baton.decode.peer import Peer
from baton.membership import Membership, fits
from baton.protocol import pods
from baton.state import Fleet, LeaseBoard, WorkerLease

log = logging.getLogger("baton.decode")

SWEEP_S = 0.25
"""How often it is seen whether a peer without a lease can be parted from."""


class Discovery:
    """Use as `async with`."""

    def __init__(self, member: Membership, handoffs: Handoffs, hello: pods.Hello, secret: str) -> None:
        assert member.link is not None, "discovery by leases, and no Redis"
        self.board = LeaseBoard(member.link)
        self._member = member
        self._handoffs = handoffs
        self._hello = hello
        self._secret = secret
        self._listed: dict[str, Peer] = {}
        """Pod → its peer."""
        self._gone: list[Peer] = []
        """Without a lease, and perhaps still at work for us."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Discovery:
        await self.board.__aenter__()
        self._task = asyncio.create_task(self._run(), name="discovery")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.board.__aexit__(None, None, None)
        for peer in (*self._listed.values(), *self._gone):
            await self._part(peer)
        self._listed, self._gone = {}, []

    async def _run(self) -> None:
        version = 0
        while True:
            try:
                async with asyncio.timeout(SWEEP_S):
                    fleet = await self.board.wait(version)
                version = fleet.version
                await self._follow(fleet)
            except TimeoutError:
                pass
            await self._sweep()

    async def _follow(self, fleet: Fleet) -> None:
        mine = self._member.lease
        fitting = {id: lease for id, lease in fleet.workers.items() if fits(mine, lease)}
        for pod, peer in list(self._listed.items()):
            lease = fitting.get(pod)
            if lease is None:
                peer.leaving = True
                self._gone.append(self._listed.pop(pod))
            elif lease.control != peer.address:
                # Another run of the pod, elsewhere: whatever the one before still says is not believed.
                self._gone.append(self._listed.pop(pod))
                peer.leaving = True
                peer.drop("it runs elsewhere now")
        for pod, lease in fitting.items():
            found = self._listed.get(pod) or await self._list(lease)
            if found is not None:
                found.expect(lease.incarnation)
                found.leaving = lease.draining

    async def _list(self, lease: WorkerLease) -> Peer | None:
        """A peer for this pod: one that was about to be parted from, or a new one."""
        for peer in self._gone:
            if peer.pod == lease.id and peer.address == lease.control:
                self._gone.remove(peer)
                self._listed[lease.id] = peer
                return peer
        if any(peer.address == lease.control for peer in self._handoffs.peers):
            return None  # it was named in the settings
        peer = Peer(lease.control, self._hello, self._secret, lease.id)
        try:
            await peer.__aenter__()
        except zmq.ZMQError as error:
            log.error("%s cannot be reached at %s: %s", lease.id, lease.control, error)
            await peer.__aexit__()
            return None
        log.info("found a prefill pod", extra={"pod": lease.id, "address": lease.control})
        self._handoffs.add(peer)
        self._listed[lease.id] = peer
        return peer

    async def _sweep(self) -> None:
        """Part from those who have left and do nothing for us any more."""
        for peer in list(self._gone):
            if not peer.ready or not self._handoffs.uses(peer):
                self._gone.remove(peer)
                await self._part(peer)

    async def _part(self, peer: Peer) -> None:
        await peer.__aexit__()
        self._handoffs.remove(peer)
        if all(other.pod != peer.pod for other in self._handoffs.peers):
            self._member.parted(peer.pod)

    def __repr__(self) -> str:
        return f"<Discovery {len(self._listed)} prefill pods, {len(self._gone)} gone; {self.board!r}>"
