"""A decode pod's front: a worker whose prompts come from prefill pods; a `baton.decode.front.Front`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from baton.core.errors import BatonError
from baton.core.types import Request
from baton.decode.discovery import Discovery
from baton.decode.handoff import Handoffs
from baton.decode.landings import HandoffMeters
from baton.decode.peer import Peer
from baton.decode.settings import DecodeSettings
from baton.engine.spec import RankLogs
from baton.engine.worker import Progress, Sink, Worker
from baton.lending import measure
from baton.membership import Membership, introduction
from baton.protocol import pods
from baton.protocol.engine import EngineFacts, Load
from baton.telemetry import Metrics


class Receiver:
    def __init__(self, settings: DecodeSettings, incarnation: str, progress: Progress) -> None:
        self.settings = settings.handoff
        self.worker = Worker(
            replace(settings.engine, handover=True), progress, RankLogs("decode", settings.logs)
        )
        self.peers: list[Peer] = []
        """Those that the settings name."""
        self.handoffs: Handoffs | None = None
        self._pod = settings.pod.name
        self._incarnation = incarnation
        self._hello: pods.Hello | None = None
        self._meters: HandoffMeters | None = None

    def measure(self, metrics: Metrics) -> None:
        """Keep figures of hand-overs there from now on; called once, before the start."""
        self._meters = HandoffMeters(
            metrics,
            lambda: self.handoffs.inflight if self.handoffs else 0,
            lambda: self.load,
            lambda: self.handoffs.local_below if self.handoffs else 0,
        )
        measure(metrics, lambda: self.handoffs.lending if self.handoffs else None)

    def landings(self, after: int) -> dict[str, object]:
        """The last hand-overs, of those that came after the one numbered so."""
        return self._meters.recent.shown(after) if self._meters else {"last": 0, "landed": []}

    @property
    def facts(self) -> EngineFacts | None:
        return self.worker.facts

    @property
    def load(self) -> Load | None:
        return self.worker.load

    @property
    def failed(self) -> asyncio.Event:
        return self.worker.failed

    @property
    def failure(self) -> BatonError | None:
        return self.worker.failure

    @property
    def open(self) -> int:
        return self.worker.open

    async def start(self) -> None:
        """Start the engine, then make contact with every prefill pod; those that are late are met later."""
        await self.worker.start()
        hello = self._hello = introduction(self.worker, "decode", self._incarnation, self._pod)
        self.peers = [Peer(address, hello, self.settings.secret) for address in self.settings.prefill]
        self.handoffs = Handoffs(self.worker, self.peers, self.settings)
        self.handoffs.meters = self._meters
        for peer in self.peers:
            await peer.__aenter__()

    def measured(self, member: Membership) -> None:
        """Let the cluster know what each path to a prefill pod gives; called once, after the start."""
        assert self.handoffs is not None, "not started"
        self.handoffs.observe(member.measured)

    def discovery(self, member: Membership) -> Discovery:
        """To be entered after the start, where there is a Redis: finds prefill pods by their leases."""
        assert self.handoffs is not None and self._hello is not None, "not started"
        return Discovery(member, self.handoffs, self._hello, self.settings.secret)

    async def close(self) -> None:
        for peer in self.peers:
            await peer.__aexit__()
        await self.worker.close()

    def submit(
        self,
        request: Request,
        sink: Sink,
        prefer: Sequence[str] | None = None,
        lender: str = "",
        trace: str = "",
        deadline: float | None = None,
    ) -> None:
        assert self.handoffs is not None, "a request before the start"
        self.handoffs.submit(request, sink, prefer, lender, trace, deadline)

    def abort(self, id: str) -> None:
        if self.handoffs is not None:
            self.handoffs.abort(id)

    def __repr__(self) -> str:
        return f"<Receiver {self.worker!r} {self.handoffs!r}>"
