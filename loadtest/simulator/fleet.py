"""The pods of a simulated fleet, and what routers hear of them: beats, prefix events, all of it late."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from loadtest.simulator.decode import DecodePod
from loadtest.simulator.events import Events
from loadtest.simulator.pool import Pool
from loadtest.simulator.prefill import PrefillPod
from loadtest.simulator.timing import Timing
from loadtest.simulator.traces import PAGE

from baton.cache.base import Evicted
from baton.router.placement import PlacementSettings, Roster
from baton.state.index import PrefixIndex
from baton.state.lease import WorkerLease

BEAT_S = 1.0
SCAN_S = 0.5
"""How often leases are read, as in `LeaseBoard`."""
FLUSH_S, LAG_S = 0.02, 0.03
"""A pod's events wait to be sent together, and are read so much later."""


@dataclass(frozen=True, slots=True)
class FleetShape:
    prefill: int = 12
    decode: int = 20
    routers: int = 3
    pages: int = 24_000
    """Of each pool: 384,000 tokens, half of what an H200 holds of an 8B model."""
    slow: int = 0
    """Pods that take three times as long, and say nothing of it but what they measure."""
    lying: float = 1.0
    """The first prefill pod takes so many times as long, and says that it does not."""
    watched: bool = True
    """Routers compare what pods claim with what they do."""
    unified: bool = False
    """All pods compute their prompts themselves."""
    sighted: bool = False
    """Routers see every cache as it is: no event is late."""

    @property
    def pods(self) -> int:
        return self.prefill + self.decode


class Fleet:
    def __init__(
        self, shape: FleetShape, events: Events, timing: Timing, settings: PlacementSettings, seed: int
    ) -> None:
        self.shape = shape
        self.events = events
        self.settings = settings
        self.index = PrefixIndex()
        self.pods: dict[str, PrefillPod | DecodePod] = {}
        self._chance = random.Random(f"fleet/{seed}")
        self._timing = timing
        self._leases: dict[str, WorkerLease] = {}
        self._holders: Counter[bytes] = Counter()
        self._unsent: dict[str, list[tuple[bytes, bytes]]] = {}
        prefills = 0 if shape.unified else shape.prefill
        for number in range(shape.pods):
            if number < prefills:
                self._add(f"prefill-{number}", PrefillPod, number)
            else:
                self._add(f"decode-{number - prefills}", DecodePod, number)
        self.roster = Roster.of(self._leases, settings)
        self._scan()

    def gbps(self, one: str, other: str) -> float:
        return self._leases[one].bandwidths[other]

    def _add(self, name: str, kind: type[PrefillPod] | type[DecodePod], number: int) -> None:
        slower = self._chance.uniform(0.98, 1.02) * (
            3.0 if number % 10 == 4 and number // 10 < self.shape.slow else 1.0
        )
        pod = kind(self.events, self._timing, Pool(self.shape.pages), slower)
        if name == "prefill-0" and isinstance(pod, PrefillPod):
            pod.slower, pod.lies = slower * self.shape.lying, self.shape.lying
        self.pods[name] = pod
        peers = () if self.shape.unified else range(self.shape.prefill)
        decodes = kind is DecodePod
        self._leases[name] = WorkerLease(
            id=name,
            incarnation="inc",
            role="prefill" if not decodes else "unified" if self.shape.unified else "decode",
            http=f"http://{name}:8000",
            page_size=PAGE,
            pages=self.shape.pages,
            model="qwen3-8b",
            max_model_len=131_072,
            page_bytes=self._timing.page_bytes,
            model_fingerprint="f",
            layout_fingerprint="f/16",
            node=f"node-{number // 8}",
            bandwidths={f"prefill-{p}": self._timing.gbps * self._chance.uniform(0.9, 1.1) for p in peers}
            if decodes
            else {},
            load=pod.load,
        )
        self.index.reset(name, b"")
        pod.changed = lambda: self._dirty(name)
        self.events.after(self._chance.uniform(0, BEAT_S), lambda: self._beat(name))

    def _beat(self, name: str) -> None:
        self._leases[name] = msgspec.structs.replace(self._leases[name], load=self.pods[name].load)
        self.events.after(BEAT_S, lambda: self._beat(name))

    def _scan(self) -> None:
        self.roster = Roster.of(dict(self._leases), self.settings, self.events.now, self.roster)
        self.events.after(SCAN_S, self._scan)

    def at_hand(self, chain: Sequence[bytes]) -> int:
        """Leading pages that some pod really holds now: nobody could find more. Who holds a page holds all
        before it, so the end can be searched for."""
        return bisect_left(chain, True, key=lambda identity: self._holders[identity] <= 0)

    def _dirty(self, name: str) -> None:
        told = self.pods[name].pool.cache.events()
        evicted = [one.identity for one in told if isinstance(one, Evicted)]
        stored = [one.identity for one in told if not isinstance(one, Evicted)]
        self._holders.subtract(evicted)
        self._holders.update(stored)
        if self.shape.sighted:
            self.index.apply(name, b"".join(evicted), b"".join(stored))
            return
        waiting = self._unsent.setdefault(name, [])
        if not waiting:
            self.events.after(FLUSH_S, lambda: self._flush(name))
        waiting.append((b"".join(evicted), b"".join(stored)))

    def _flush(self, name: str) -> None:
        frames = self._unsent.pop(name)

        def read() -> None:
            for evicted, stored in frames:
                self.index.apply(name, evicted, stored)

        self.events.after(LAG_S, read)
