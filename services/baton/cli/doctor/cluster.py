"""Checks of pods, from their leases and metrics alone. Pure.

What matters most is what each pair measured when it met: the pod's own verdict (it knows which hardware the
two have) where it exports one, and in any case the rate against what its transport should give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from baton.cli.doctor.finding import Finding, fine, note, wrong
from baton.cli.fleet.read import Picture, Sight

RATE = "baton_peer_bandwidth_bytes_per_second"
VERDICT = "baton_peer_path_ok"

FLOORS = {
    "nvlink": 100.0, "same gpu": 100.0, "cuda_ipc": 100.0, "rdma": 8.0, "rc_": 8.0, "dc_": 8.0, "pcie": 5.0,
    "shared memory": 0.5, "cma": 0.5, "posix": 0.5, "sysv": 0.5, "tcp": 0.1,
}  # fmt: skip
"""GB/s that a transport should give with pages of 1 MiB or more; found by a part of its name."""
FULL_SPEED_BYTES = 1 << 20
GPU_ADVICE = (
    "pods of one node need the channel device and every GPU's device file (or hostPID), pods of two nodes "
    "RDMA devices; `baton doctor` inside the pod says what it lacks"
)


@dataclass(frozen=True, slots=True)
class Path:
    """From one pod to one rank of another, in GB/s."""

    peer: str
    transport: str
    slowest: float
    judged: bool | None
    """The pod's own verdict; None where it gives none."""


def examine_pods(picture: Picture) -> Iterator[Finding]:
    if picture.router is not None:
        yield _state(picture.router, "router")
    for pod in picture.pods:
        yield _state(pod, pod.role)
    yield from _agreement([pod for pod in picture.pods if pod.lease])
    met = False
    for pod in picture.pods:
        for path in paths(pod):
            met = True
            yield judged(pod, path)
    pairs = [pod for pod in picture.pods if pod.role in ("prefill", "decode")]
    if not met and any(pod.figures.values for pod in pairs):
        yield note(
            "paths", "no pair of pods has met yet", "send a prompt longer than local_below, then look again"
        )
    elif not met and pairs:
        yield note(
            "paths", "pods cannot be asked from here", "run `baton doctor` in one of them (kubectl exec)"
        )


def _state(one: Sight, role: str) -> Finding:
    what = f"{role} {one.name}"
    if one.state == "ready":
        return fine(what, f"ready at {one.address}")
    if one.state == "draining":
        return note(what, "is leaving; it takes no new work")
    return wrong(what, f"{one.state}: {one.detail or 'says no more'}", "its log says why")


def _agreement(pods: Sequence[Sight]) -> Iterator[Finding]:
    """Hand-overs need a prefill pod with a decode pod's layout, and one release everywhere."""
    roles: dict[str, set[str]] = {}
    for pod in pods:
        assert pod.lease is not None
        roles.setdefault(pod.lease.layout_fingerprint, set()).add(pod.lease.role)
    lonely = {"decode": "prefill", "prefill": "decode"}
    for layout, found in sorted(roles.items()):
        for role, partner in lonely.items():
            if role in found and partner not in found:
                seen = f"{role} pods of layout {layout[:12]} have no {partner} pod of the same layout"
                same = "one model, dtype, kv_cache_dtype and page size, of one release"
                yield wrong("layouts", seen, f"start both with {same}")
    releases = {labels["version"] for pod in pods for labels, _ in pod.figures.each("baton_build_info")}
    if len(releases) > 1:
        yield note(
            "releases",
            f"{', '.join(sorted(releases))} run side by side",
            "as they should during an upgrade only",
        )


def paths(pod: Sight) -> list[Path]:
    slowest: dict[tuple[str, str], float] = {}
    for labels, rate in pod.figures.each(RATE):
        key = (labels["peer"], labels["transport"])
        slowest[key] = min(slowest.get(key, rate), rate)
    verdicts = {labels["peer"]: bool(value) for labels, value in pod.figures.each(VERDICT)}
    return [
        Path(peer, transport, rate / 1e9, verdicts.get(peer))
        for (peer, transport), rate in sorted(slowest.items())
    ]


def judged(pod: Sight, path: Path) -> Finding:
    what = f"path {pod.name} ↔ {path.peer}"
    seen = f"{path.slowest:.2f} GB/s over {path.transport}"
    floor = floor_of(path.transport, pod.lease.page_bytes if pod.lease else 0)
    slow = floor is not None and path.slowest < floor
    if path.judged is False or (path.judged is None and slow):
        should = f"; {floor:.2f} is the least it should give" if slow else "; the hardware allows more"
        return wrong(what, f"SLOW PATH: {seen}{should}", GPU_ADVICE)
    if path.judged is None and "tcp" in path.transport:
        return note(what, f"{seen}: as it must be without NVLink and RDMA, and wrong with them", GPU_ADVICE)
    return fine(what, seen)


def floor_of(transport: str, page_bytes: int) -> float | None:
    """GB/s; small pages reach less. None for a transport that is not known here."""
    share = min(1.0, page_bytes / FULL_SPEED_BYTES) if page_bytes else 1.0
    found = [gbps for part, gbps in FLOORS.items() if part in transport]
    return min(found) * share if found else None
