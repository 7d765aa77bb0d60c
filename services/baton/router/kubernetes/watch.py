"""Keeps the set of pods that the API server lists, by watching it; goes on from where it was after a break.

While the server cannot be reached the last set stays. Whoever owns it runs `run` and reads `pods`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from baton.core.clock import Clock
from baton.core.errors import PeerLost
from baton.router.kubernetes.api import Api, Gone
from baton.router.kubernetes.objects import PodSeen, read_event, read_failure, read_list, read_pod

log = logging.getLogger(__name__)

WATCH_S = 240
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class WatchHealth:
    synced: bool
    """Listed at least once."""
    silent_s: float
    """Since the server was last heard, bookmarks included."""
    lists: int
    failures: int
    error: str
    """What the last failure said; empty while all is well."""


class PodWatch:
    def __init__(
        self, api: Api, port_name: str, clock: Clock, changed: Callable[[], None], watch_s: int = WATCH_S
    ) -> None:
        """`changed` is called, on the loop, whenever `pods` is new."""
        self.pods: Mapping[str, PodSeen] = MappingProxyType({})
        """By name."""
        self._api = api
        self._port_name = port_name
        self._clock = clock
        self._changed = changed
        self._watch_s = watch_s
        self._version = ""
        """Where to go on from; empty when a list is needed."""
        self._heard_at = clock.now()
        self._lists = 0
        self._failures = 0
        self._error = ""

    def __repr__(self) -> str:
        return f"PodWatch({len(self.pods)} pods, version {self._version or 'none'})"

    @property
    def health(self) -> WatchHealth:
        silent_s = self._clock.now() - self._heard_at
        return WatchHealth(self._lists > 0, silent_s, self._lists, self._failures, self._error)

    async def run(self) -> None:
        """For as long as the router runs."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._follow()
                pause_s = FIRST_PAUSE_S
            except Gone:
                self._version = ""
            except (PeerLost, msgspec.MsgspecError, UnicodeDecodeError) as error:
                self._failures += 1
                if not self._error:
                    log.warning("the API server cannot be followed", extra={"cause": str(error)})
                self._error = str(error)
                if not isinstance(error, PeerLost):
                    self._version = ""
            await asyncio.sleep(pause_s * (0.5 + random.random()))
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2) if self._error else FIRST_PAUSE_S

    async def _list(self) -> None:
        listed = read_list(await self._api.pods())
        self._lists += 1
        self._heard()
        self._version = listed.metadata.resource_version
        seen = (PodSeen.of(pod, self._port_name) for pod in listed.items)
        self._set({pod.name: pod for pod in seen})

    async def _follow(self) -> None:
        """One watch, to its end."""
        async for line in self._api.watch(self._version, self._watch_s):
            self._heard()
            event = read_event(line)
            if event.type == "ERROR":
                failure = read_failure(event.object)
                if failure.code == 410:
                    raise Gone(failure.message)
                raise PeerLost(f"the watch failed: {failure.code} {failure.message}")
            pod = read_pod(event.object)
            self._version = pod.metadata.resource_version or self._version
            if event.type == "BOOKMARK":
                continue
            pods = dict(self.pods)
            if event.type == "DELETED":
                pods.pop(pod.metadata.name, None)
            else:
                pods[pod.metadata.name] = PodSeen.of(pod, self._port_name)
            self._set(pods)

    def _heard(self) -> None:
        self._heard_at = self._clock.now()
        if self._error:
            log.info("the API server answers again")
        self._error = ""

    def _set(self, pods: Mapping[str, PodSeen]) -> None:
        if pods != self.pods:
            self.pods = MappingProxyType(dict(pods))
            self._changed()
