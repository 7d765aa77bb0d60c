"""Asks a router, or pods one by one, what they are doing. Every question has a deadline; none is repeated.

A router knows its pods' leases (`/debug/fleet`), so nothing else need be reachable. Pods asked directly
(`--pods`) give their lease and all their metrics, also when no router runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import msgspec

from baton.cli.fleet.figures import Figures, together
from baton.cli.typed import address
from baton.core.errors import Forbidden, PeerLost, Unauthenticated
from baton.state.lease import WorkerLease

PATIENCE_S = 3.0
"""How long anybody may take to answer one question."""
AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One process as it was when it was asked."""

    address: str
    reachable: bool = True
    ready: bool = False
    detail: str = ""
    """Why it is not ready, or cannot be reached."""
    told: dict[str, Any] = field(default_factory=dict)
    """Its readiness detail, whole."""
    lease: WorkerLease | None = None
    figures: Figures = field(default_factory=Figures)

    @property
    def name(self) -> str:
        return self.lease.id if self.lease else self.address.removeprefix("http://")

    @property
    def role(self) -> str:
        return self.lease.role if self.lease else str(self.told.get("role", "?"))

    @property
    def state(self) -> str:
        if not self.reachable:
            return "unreachable"
        if self.lease is not None and self.lease.draining:
            return "draining"
        return "ready" if self.ready else "not ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everybody, at one moment."""

    at: float
    """By this process's monotonic clock."""
    router: Sight | None
    pods: tuple[Sight, ...]

    @property
    def figures(self) -> Figures:
        """All pods' and the router's: their names differ, but for those of every process."""
        seen = [*self.pods, *([self.router] if self.router else [])]
        return together(one.figures for one in seen)

    @property
    def troubles(self) -> list[str]:
        seen = [*([self.router] if self.router else []), *self.pods]
        told = [f"{one.name}: {one.detail or one.state}" for one in seen if one.state != "ready"]
        return told if self.pods else [*told, "no pod is known"]


def held_key() -> str:
    """The key that the environment names; empty where it names none."""
    return os.environ.get("BATON_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""


def look(url: str, pods: Sequence[str], key: str = "") -> Picture:
    """`pods`, if any are named; else what the router at `url` knows. A single pod at `url` counts as well.
    `key` is shown to the router alone, and only for what needs one."""
    with httpx.Client(timeout=PATIENCE_S) as http, ThreadPoolExecutor(AT_ONCE) as several:
        if pods:
            seen = tuple(several.map(lambda pod: sight(http, pod), [address(one, "pods") for one in pods]))
            return Picture(at=time.monotonic(), router=None, pods=seen)
        front = sight(http, address(url))
        if not front.reachable:
            raise PeerLost(
                f"nothing answers on {front.address} ({front.detail}); is it running? `baton up` starts one"
            )
        fleet = _get(http, f"{front.address}/debug/fleet", key)
        _check_let_in(fleet)
        if fleet is None or fleet.status_code != 200:  # a pod, not a router
            return Picture(at=time.monotonic(), router=None, pods=(front,))
        leases = _workers(fleet)
        # Pods that can be reached from here say more than their lease.
        seen = tuple(several.map(lambda lease: known(http, lease), leases))
        return Picture(at=time.monotonic(), router=front, pods=seen)


def sight(http: httpx.Client, at: str) -> Sight:
    try:
        ready = http.get(f"{at}/readyz")
    except httpx.HTTPError as error:
        return Sight(address=at, reachable=False, detail=str(error) or type(error).__name__)
    told = _json(ready)
    lease = _get(http, f"{at}/lease")
    return Sight(
        address=at,
        ready=ready.status_code == 200,
        detail="" if ready.status_code == 200 else str(told.get("message", f"HTTP {ready.status_code}")),
        told=told,
        lease=_lease(lease),
        figures=_figures(http, _metrics_at(at, told)),
    )


def known(http: httpx.Client, lease: WorkerLease) -> Sight:
    """A pod that a router vouches for; asked itself where it can be reached from here."""
    asked = sight(http, lease.http) if lease.http else Sight(address="", reachable=False)
    if asked.reachable:
        return replace(asked, lease=asked.lease or lease)
    return Sight(address=lease.http, ready=not lease.draining, lease=lease)


def _metrics_at(at: str, told: dict[str, Any]) -> str:
    """Where its metrics are: a pod says so when they have a port of their own. A router does not: it is asked
    through a Service, which has no such port."""
    port = told.get("metrics_port")
    return str(httpx.URL(at).copy_with(port=port)) if isinstance(port, int) else at


def _check_let_in(answer: httpx.Response | None) -> None:
    if answer is None or answer.status_code not in (401, 403):
        return
    kind = Unauthenticated if answer.status_code == 401 else Forbidden
    said = _json(answer).get("error", {}).get("message", "")
    raise kind(f"the router tells operators alone ({said}): give one's key with --api-key or BATON_API_KEY")


def _get(http: httpx.Client, url: str, key: str = "") -> httpx.Response | None:
    try:
        return http.get(url, headers={"authorization": f"Bearer {key}"} if key else {})
    except httpx.HTTPError:
        return None


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _lease(answer: httpx.Response | None) -> WorkerLease | None:
    if answer is None or answer.status_code != 200:
        return None
    try:
        return msgspec.json.decode(answer.content, type=WorkerLease)
    except (msgspec.MsgspecError, ValueError):
        return None


def _workers(answer: httpx.Response) -> list[WorkerLease]:
    """What a router lists; a lease that cannot be read is left out."""
    found = []
    for one in _json(answer).get("workers", ()):
        try:
            found.append(msgspec.convert(one, WorkerLease, strict=False))
        except (msgspec.MsgspecError, ValueError):
            continue
    return found


def _figures(http: httpx.Client, at: str) -> Figures:
    answer = _get(http, f"{at.rstrip('/')}/metrics")
    if answer is None or answer.status_code != 200:
        return Figures()
    try:
        return Figures.read(answer.text)
    except ValueError:
        return Figures()
