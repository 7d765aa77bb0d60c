"""One engine rank's end of NIXL: the registered pool, the peers it knows, and transfers between them.

The rank makes one agent over its pool as it starts and hands it to a `Mover`, whose thread is from
then on the only one that calls it: nothing here is thread-safe. Calls return at once, except that a
transport that copies by itself (host memory) copies inside `post`. NIXL's errors leave as those of
`baton.core.errors`. A peer's handles are released before the peer is removed and never touched after.

NIXL's own progress thread is off by default: as its Python API configures it, it spins on one core
for ever. Without it the transport advances inside `poll` and `notes`, so somebody must call those.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from baton.core.errors import Failed, Misconfigured, PeerLost, ProtocolMismatch
from baton.transfer.layout import Indices, PoolLayout, Span, strided
from baton.transfer.memory import Kind, Region
from baton.transfer.messages import PeerInfo
from baton.transfer.place import place_of

_BACKEND = "UCX"
_LOCAL = ""
"""NIXL's name for the initiator's own side of a transfer."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Transfer:
    """A posted transfer. Its agent owns it until it is done, failed, or its peer is dropped."""

    peer: str
    bytes: int
    done: bool = False
    _handle: Any = None


@dataclass(slots=True, eq=False)
class Peer:
    """A peer that transfers can go to."""

    info: PeerInfo
    _lists: dict[tuple[int, int], Any] = field(default_factory=dict)
    """(first head, heads) → the prepared list of those heads of each of the peer's pages."""
    _transfers: set[Transfer] = field(default_factory=set)


class Agent:
    def __init__(
        self, layout: PoolLayout, region: Region, *, rank: int = 0, progress_thread: bool = False
    ) -> None:
        """Registers the whole pool. The region must outlive the agent."""
        assert region.bytes >= layout.bytes, f"{region.bytes} bytes are no pool of {layout}"
        self.layout = layout
        self.region = region
        self.rank = rank
        self.incarnation = uuid.uuid4().hex
        self.place = place_of(region)
        self._peers: dict[str, Peer] = {}
        self._lists: dict[tuple[int, int], Any] = {}
        nixl: Any = importlib.import_module("nixl")
        settings = nixl.nixl_agent_config(enable_prog_thread=progress_thread, backends=[_BACKEND])
        self._nixl: Any = nixl.nixl_agent(self.incarnation, settings)
        if _BACKEND not in self._nixl.backends:
            raise Misconfigured(f"NIXL has no {_BACKEND} plugin, only {self._nixl.get_plugin_list()}")
        with _translated("register the pool"):
            entry = (region.address, layout.bytes, region.device, "")
            self._registration = self._nixl.register_memory([entry], region.segment)
            self._metadata: bytes = self._nixl.get_agent_metadata()

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
        """Make the GPU's primary context current; the first call of a thread that will post."""
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
        with _translated("add a peer"):
            name = self._nixl.add_remote_agent(info.metadata)
        if name not in (info.incarnation, info.incarnation.encode()):
            self._forget(name if isinstance(name, str) else name.decode())
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
            prepared.release()
        self._forget(incarnation)

    def _forget(self, incarnation: str) -> None:
        try:
            self._nixl.remove_remote_agent(incarnation)
        except Exception as error:  # NIXL removes a peer by itself when its connection breaks
            _log.debug("peer %s was gone: %s", incarnation[:8], error)

    def post(self, push: bool, incarnation: str, span: Span, local: Indices, remote: Indices) -> Transfer:
        """Start to write (`push`) or read the span of these pages. Neighbours go as one descriptor."""
        peer = self.peer(incarnation)
        here, there = (span.source_head, span.destination_head)[:: 1 if push else -1]
        mine, theirs = self._list(here, span.heads), self._peer_list(peer, there, span.heads)
        transfer = Transfer(incarnation, span.heads * self.layout.head_bytes * len(local))
        with _translated("post a transfer"):
            word = "WRITE" if push else "READ"
            transfer._handle = self._nixl.make_prepped_xfer(word, mine, local, theirs, remote)
            peer._transfers.add(transfer)
            try:
                state = self._nixl.transfer(transfer._handle)
            except BaseException:
                self._release(transfer, peer)
                raise
        self._settle(transfer, peer, state)
        return transfer

    def poll(self, transfer: Transfer) -> bool:
        """Whether it is done. Raises when it failed; it is over then too."""
        if transfer.done:
            return True
        peer = self.peer(transfer.peer)
        assert transfer in peer._transfers, "a transfer that is over was polled"
        with _translated("poll a transfer"):
            try:
                state = self._nixl.check_xfer_state(transfer._handle)
            except BaseException:
                self._release(transfer, peer)
                raise
        self._settle(transfer, peer, state)
        return transfer.done

    def notify(self, incarnation: str, data: bytes) -> None:
        """Send a note; it arrives after all that was done before it between these two agents."""
        self.peer(incarnation)
        with _translated("send a note"):
            self._nixl.send_notif(incarnation, data)

    def notes(self) -> list[tuple[str, bytes]]:
        """What came since the last call: the sender's incarnation and the note. Advances the transport."""
        with _translated("look for notes"):
            found = self._nixl.get_new_notifs()
        return [(sender, data) for sender, several in found.items() for data in several] if found else []

    def close(self) -> None:
        """Drop all peers and deregister the pool. Idempotent."""
        if self._nixl is None:
            return
        for incarnation in self.peers:
            self.drop_peer(incarnation)
        for prepared in self._lists.values():
            prepared.release()
        self._lists.clear()
        with contextlib.suppress(Failed), _translated("deregister the pool"):
            self._nixl.deregister_memory(self._registration)
        self._registration = self._nixl = None

    def _settle(self, transfer: Transfer, peer: Peer, state: str) -> None:
        if state == "DONE":
            self._release(transfer, peer)
            transfer.done = True
        elif state != "PROC":
            self._release(transfer, peer)
            raise Failed(f"a transfer with {transfer.peer[:8]} ended as {state}")

    def _release(self, transfer: Transfer, peer: Peer) -> None:
        peer._transfers.discard(transfer)
        handle, transfer._handle = transfer._handle, None
        try:
            handle.release()
        except Exception as error:  # the library keeps what it could not cancel, and tries again at its end
            _log.warning("a transfer with %s could not be released: %s", transfer.peer[:8], error)

    def _list(self, head: int, heads: int) -> Any:
        found = self._lists.get((head, heads))
        if found is None:
            rows = strided(self.layout, self.region.address, self.region.device, head, heads)
            with _translated("prepare the pool's list"):
                found = self._nixl.prep_xfer_dlist(_LOCAL, rows, self.region.segment)
            self._lists[head, heads] = found
        return found

    def _peer_list(self, peer: Peer, head: int, heads: int) -> Any:
        found = peer._lists.get((head, heads))
        if found is None:
            info = peer.info
            rows = strided(info.layout, info.address, info.device, head, heads)
            with _translated("prepare a peer's list"):
                found = self._nixl.prep_xfer_dlist(info.incarnation, rows, info.segment)
            peer._lists[head, heads] = found
        return found


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """NIXL's exceptions have no common base and live in the wheel of one CUDA version: known by name."""
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        if name in ("nixlRemoteDisconnectError", "nixlNotFoundError"):
            raise PeerLost(f"could not {doing}: {error}") from error
        if name.startswith("nixl"):
            raise Failed(f"could not {doing}: {error}") from error
        raise
