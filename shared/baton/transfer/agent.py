"""One engine rank's end of NIXL: the registered pool, the peers it knows, and transfers between them.

The rank makes one agent over its pool as it starts and hands it to a `Mover`, whose thread is from
then on the only one that calls it: nothing here is thread-safe. Calls return at once, except that a
transport that copies by itself (host memory) copies inside `start`. A peer's handles are released
before the peer is removed, and nothing touches them after.

The transport needs no UCX_* variable. UCX_NET_DEVICES picks NICs where a host has several, and UCX_TLS
restricts it, which tests use to get the slow paths.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from baton.core.errors import BatonError, Failed, PeerLost, ProtocolMismatch
from baton.transfer.binding import Binding
from baton.transfer.layout import Indices, PoolLayout, Span, strided
from baton.transfer.memory import Kind, Region
from baton.transfer.messages import PeerInfo
from baton.transfer.place import place_of

_OWN = ""
"""Stands for this agent where a list is prepared."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Transfer:
    """Pages on their way. Its agent owns it until it is done, failed, or its peer is dropped."""

    peer: str
    bytes: int
    done: bool = False
    _handle: int = 0


@dataclass(slots=True, eq=False)
class Peer:
    """A peer that transfers can go to."""

    info: PeerInfo
    _lists: dict[tuple[int, int], int] = field(default_factory=dict)
    """(first head, heads) → the prepared list of those heads of each of the peer's pages."""
    _transfers: set[Transfer] = field(default_factory=set)
    """Those whose handle is not released."""


class Agent:
    def __init__(self, layout: PoolLayout, region: Region, *, rank: int = 0, progress_us: int = 5000) -> None:
        """Registers the whole pool. The region must outlive the agent.

        `progress_us`: how often the transport's own thread looks without being woken, in microseconds of
        whole milliseconds; 5000 costs less than 1 % of a core. With 0 it spins.
        """
        assert region.bytes >= layout.bytes, f"{region.bytes} bytes are no pool of {layout}"
        self.layout = layout
        self.region = region
        self.rank = rank
        self.incarnation = uuid.uuid4().hex
        self.place = place_of(region)
        self._peers: dict[str, Peer] = {}
        self._lists: dict[tuple[int, int], int] = {}
        self.bind_thread()
        self._nixl: Binding | None = Binding(self.incarnation, progress_us)
        self._registration = self._nixl.register(region.address, layout.bytes, region.device, region.segment)
        self._metadata = self._nixl.metadata()

    def __repr__(self) -> str:
        return f"Agent({self.incarnation[:8]}, rank {self.rank}, {self.layout}, {len(self._peers)} peers)"

    def metadata(self) -> bytes:
        return self._metadata

    def info(self) -> PeerInfo:
        """What peers need to know of this rank."""
        return PeerInfo(
            incarnation=self.incarnation,
            rank=self.rank,
            layout=self.layout,
            place=self.place,
            address=self.region.address,
            segment=self.region.segment,
            device=self.region.device,
            metadata=self._metadata,
        )

    def bind_thread(self) -> None:
        """Make the rank's GPU the thread's current one; the first call of a thread that will post."""
        if self.region.kind is not Kind.HOST:
            import torch

            torch.cuda.set_device(self.region.device)
            torch.zeros(1, device=torch.device("cuda", self.region.device))

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(self._peers)

    def peer(self, incarnation: str) -> Peer:
        found = self._peers.get(incarnation)
        if found is None:
            raise PeerLost(f"no peer {incarnation[:8]}")
        return found

    def add_peer(self, info: PeerInfo) -> Peer:
        """Learn of a peer; it is not spoken to yet. The same introduction twice changes nothing."""
        known = self._peers.get(info.incarnation)
        if known is not None:
            if known.info != info:
                raise ProtocolMismatch(f"peer {info.incarnation[:8]} introduced itself in two ways")
            return known
        if info.layout.fingerprint() != self.layout.fingerprint():
            raise ProtocolMismatch(f"a peer's pool ({info.layout}) cannot exchange pages with {self.layout}")
        name = self._open().add(info.metadata)
        if name != info.incarnation:
            self._forget(name)
            raise ProtocolMismatch(f"peer {info.incarnation[:8]} came with the metadata of another")
        peer = self._peers[info.incarnation] = Peer(info)
        return peer

    def drop_peer(self, incarnation: str) -> None:
        """Close the connection by force and forget the peer; its open transfers are over, unfinished.

        Bytes that the hardware had already been given may land for a moment longer.
        """
        peer = self._peers.pop(incarnation, None)
        if peer is None:
            return
        for transfer in tuple(peer._transfers):
            self._release(transfer, peer)
        for prepared in peer._lists.values():
            self._open().unprepare(prepared)
        self._forget(incarnation)

    def post(self, push: bool, incarnation: str, span: Span, local: Indices, remote: Indices) -> Transfer:
        """Start to write (`push`) or read the span of these pages. Neighbours go as one descriptor."""
        transfer = self.make(push, incarnation, span, local, remote)
        self.start(transfer)
        return transfer

    def make(self, push: bool, incarnation: str, span: Span, local: Indices, remote: Indices) -> Transfer:
        """A transfer that has not begun."""
        peer = self.peer(incarnation)
        here, there = (span.source_head, span.destination_head)[:: 1 if push else -1]
        mine, theirs = self._list(here, span.heads), self._peer_list(peer, there, span.heads)
        transfer = Transfer(incarnation, span.heads * self.layout.head_bytes * len(local))
        transfer._handle = self._open().make(push, mine, local, theirs, remote)
        peer._transfers.add(transfer)
        return transfer

    def start(self, transfer: Transfer) -> None:
        self._step(transfer, self._open().post)

    def poll(self, transfer: Transfer) -> bool:
        """Whether it is done. Raises when it failed; it is over then too."""
        if not transfer.done:
            self._step(transfer, self._open().check)
        return transfer.done

    def notify(self, incarnation: str, data: bytes) -> None:
        """Send a note; it comes after the data of every transfer that was done before."""
        self.peer(incarnation)
        self._open().notify(incarnation, data)

    def notes(self) -> list[tuple[str, bytes]]:
        """What came since the last call: the sender's incarnation and the note."""
        found = self._open().notes()
        return [(sender, data) for sender, several in found.items() for data in several] if found else []

    def close(self) -> None:
        """Drop all peers and deregister the pool. Idempotent."""
        if self._nixl is None:
            return
        for incarnation in self.peers:
            self.drop_peer(incarnation)
        for prepared in self._lists.values():
            self._nixl.unprepare(prepared)
        self._lists.clear()
        with contextlib.suppress(Failed):
            self._nixl.deregister(self._registration)
        self._registration = self._nixl = None

    def _open(self) -> Binding:
        assert self._nixl is not None, "a closed agent was used"
        return self._nixl

    def _step(self, transfer: Transfer, call: Callable[[int], bool]) -> None:
        """Start or poll a transfer; one that is done or failed gives its handle back."""
        peer = self.peer(transfer.peer)
        assert transfer in peer._transfers, "a transfer that is over was used"
        try:
            transfer.done = call(transfer._handle)
        except BaseException:
            self._release(transfer, peer)
            raise
        if transfer.done:
            self._release(transfer, peer)

    def _release(self, transfer: Transfer, peer: Peer) -> None:
        peer._transfers.discard(transfer)
        try:
            self._open().release(transfer._handle)
        except BatonError as error:
            _log.warning("a transfer with %s could not be released: %s", transfer.peer[:8], error)

    def _forget(self, incarnation: str) -> None:
        try:
            self._open().remove(incarnation)
        except BatonError as error:  # NIXL may have removed it itself when the connection broke
            _log.debug("peer %s was gone: %s", incarnation[:8], error)

    def _list(self, head: int, heads: int) -> int:
        found = self._lists.get((head, heads))
        if found is None:
            rows = strided(self.layout, self.region.address, self.region.device, head, heads)
            found = self._lists[head, heads] = self._open().prepare(_OWN, rows, self.region.segment)
        return found

    def _peer_list(self, peer: Peer, head: int, heads: int) -> int:
        found = peer._lists.get((head, heads))
        if found is None:
            info = peer.info
            rows = strided(info.layout, info.address, info.device, head, heads)
            found = peer._lists[head, heads] = self._open().prepare(info.incarnation, rows, info.segment)
        return found
