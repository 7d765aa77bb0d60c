"""How fast one peer can really be reached, and whether that is what the hardware allows.

A broken path gives no error: the transport falls back to TCP in silence and is 500 times slower. So
every pair of ranks is measured at first contact, and the verdict is made to be logged, exported and
shown. `measure` writes and reads the scratch page, which nobody owns, over and over, with many
descriptors of it; it is a generator, so that the mover can go on with other work between its steps.
`expectation` and `judge` are pure.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np

from baton.transfer.agent import Agent
from baton.transfer.layout import SCRATCH_PAGE, Indices, PoolLayout, Span
from baton.transfer.messages import Place

_SMALL_REPEATS = 8
_BULK_REPEATS = 3
"""The best counts: the first one finds memory that nobody has touched yet."""
_FIRST_BYTES = 4 << 20
_MOST_BYTES = 256 << 20
_MOST_DESCRIPTORS = 128
_ENOUGH_S = 3e-3
"""A bulk transfer that takes this long says what the path gives; a shorter one is followed by a larger."""
_FULL_SPEED_BYTES = 1 << 20
"""Descriptors of this size or more reach the rates below; smaller ones proportionally less."""
_LEAST_OF_A_BUS = 5.0
"""Gigabytes a second: what is slower than this between GPUs of one host goes through sockets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One path, as seen from this rank."""

    connect_s: float
    """The very first transfer, which sets the connection up."""
    latency_s: float
    """Of one small write, post to done."""
    write_gbps: float
    """Gigabytes (1e9) a second, of scattered pages."""
    read_gbps: float
    descriptor_bytes: int
    """What one descriptor of the bulk transfers carried: one page."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a path between two places should give."""

    transport: str
    gbps: float
    """The least that is no cause for alarm, with large pages."""
    advice: str
    """What to look at when it is less."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A measured path and what it should have been. `message` is for logs and readiness detail."""

    ok: bool
    expected: Expectation
    measured: Measured
    transports: Mapping[str, str]
    """What the transport says it uses, by operation; empty where it was not asked to write that down."""
    transport: str
    """What it goes over, in a word: as the transport says, or else as the speed tells."""
    message: str


def measure(
    agent: Agent, incarnation: str, clock: Callable[[], float] = time.perf_counter
) -> Generator[None, None, Measured]:
    """Yields wherever it waits; returns what it saw. Raises `PeerLost` or `Failed`; has no deadline."""
    span = _common_span(agent.layout, agent.peer(incarnation).info.layout)
    size = span.heads * agent.layout.head_bytes
    one = _scratch(1)
    connect = yield from _timed(agent, incarnation, True, span, one, clock)
    small = Span(span.source_head, span.destination_head, 1)
    latencies = []
    for _ in range(_SMALL_REPEATS):
        latencies.append((yield from _timed(agent, incarnation, True, small, one, clock)))
    rates = []
    for push in (True, False):
        rates.append((yield from _bulk(agent, incarnation, push, span, size, clock)))
    return Measured(
        connect_s=connect,
        latency_s=statistics.median(latencies),
        write_gbps=rates[0],
        read_gbps=rates[1],
        descriptor_bytes=size,
    )


def _common_span(mine: PoolLayout, theirs: PoolLayout) -> Span:
    """As many heads as both pages have; which ones does not matter on the scratch page."""
    return Span(0, 0, min(mine.kv_heads, theirs.kv_heads))


def _scratch(count: int) -> Indices:
    return np.full(count, SCRATCH_PAGE, dtype=np.int32)


def _bulk(
    agent: Agent, incarnation: str, push: bool, span: Span, size: int, clock: Callable[[], float]
) -> Generator[None, None, float]:
    best, target = 0.0, _FIRST_BYTES
    while True:
        count = min(max(1, target // size), _MOST_DESCRIPTORS)
        tries = []
        for _ in range(_BULK_REPEATS):
            tries.append((yield from _timed(agent, incarnation, push, span, _scratch(count), clock)))
        best = max(best, count * size / min(tries) / 1e9)
        if min(tries) >= _ENOUGH_S or target >= _MOST_BYTES or count == _MOST_DESCRIPTORS:
            return best
        target *= 4


def _timed(
    agent: Agent, incarnation: str, push: bool, span: Span, pages: Indices, clock: Callable[[], float]
) -> Generator[None, None, float]:
    begin = clock()
    transfer = agent.post(push, incarnation, span, pages, pages)
    while not agent.poll(transfer):
        yield
    return clock() - begin


def expectation(mine: Place, theirs: Place) -> Expectation:
    """What the hardware between two pools allows, as far as the places tell."""
    same_host = bool(mine.host) and mine.host == theirs.host
    if mine.gpu and theirs.gpu and same_host:
        return _between_gpus(mine, theirs)
    if not same_host and mine.rdma and theirs.rdma:
        return Expectation("rdma", 8.0, "check UCX_NET_DEVICES, GPUDirect RDMA and the NIC's link")
    if same_host and mine.processes == theirs.processes and not (mine.gpu or theirs.gpu):
        return Expectation("shared memory", 0.5, "check that ptrace between the processes is allowed")
    return Expectation("tcp", 0.1, "check the network between the hosts")


def _between_gpus(mine: Place, theirs: Place) -> Expectation:
    apart = mine.processes != theirs.processes
    if apart and "fabric" not in (mine.memory, theirs.memory):
        advice = (
            "the two pods have PID namespaces of their own and pools of ordinary memory: give them the "
            "channel device nvidia-caps-imex-channels/channel0 so that pools become fabric memory, or hostPID"
        )
    else:
        advice = "let both pods see the device files of both GPUs, and choose with CUDA_VISIBLE_DEVICES"
    if mine.gpu == theirs.gpu:
        return Expectation("same gpu", 100.0, advice)
    if mine.nvlink and theirs.nvlink:
        return Expectation("nvlink", 100.0, advice)
    return Expectation("pcie", 5.0, advice)


def judge(mine: Place, theirs: Place, measured: Measured, used: Mapping[str, str]) -> Verdict:
    expected = expectation(mine, theirs)
    share = min(1.0, measured.descriptor_bytes / _FULL_SPEED_BYTES)
    floor = expected.gbps * share
    slowest = min(measured.write_gbps, measured.read_gbps)
    ok = slowest >= floor
    told = expected.transport if ok else _instead(expected.transport, slowest / share)
    transport = ", ".join(sorted(set(used.values()))) or told
    seen = (
        f"write {measured.write_gbps:.2f} GB/s, read {measured.read_gbps:.2f} GB/s, "
        f"latency {measured.latency_s * 1e6:.0f} us, first contact {measured.connect_s * 1e3:.0f} ms"
    )
    if used:
        seen += ", over " + ", ".join(f"{name} ({operation})" for operation, name in sorted(used.items()))
    if ok:
        message = f"path as expected ({expected.transport}): {seen}"
    else:
        if not used:
            seen += f", over {transport}"
        message = f"SLOW PATH: {seen}; {expected.transport} should give {floor:.2f}: {expected.advice}"
    return Verdict(ok, expected, measured, dict(used), transport, message)


def _instead(transport: str, gbps: float) -> str:
    """What a path goes over that is too slow: falling back gives no error and no other sign."""
    if transport in ("nvlink", "same gpu", "pcie") and gbps < _LEAST_OF_A_BUS:
        return f"tcp instead of {transport}"
    return f"less than {transport}"


def transport_log(file: str) -> dict[str, str]:
    """Environment that makes UCX write down which transports it chose; set before the first agent is made.

    All of UCX's messages go to that file then, its warnings too.
    """
    return {"UCX_PROTO_INFO": "y", "UCX_LOG_FILE": file}


_WRITE_TITLE = re.compile(r"\|\s*\S+ int(?:ra|er)-node cfg#\d+.*\|\s*$")
_LAST_ROW = re.compile(r"\|\s*[0-9.KMG]+\.\.inf\s*\|[^|]*\|\s*(?P<transport>[^|]+?)\s*\|\s*$")


def transports(log: str) -> dict[str, str]:
    """What a UCX log says large reads and writes between processes go over, by operation.

    For example {"write": "cuda_ipc/cuda", "read": "tcp/eth0"}; the newest choice of each wins.
    """
    found: dict[str, str] = {}
    between = False
    operation = ""
    for line in log.splitlines():
        if _WRITE_TITLE.search(line):
            between, operation = True, ""
        elif " self cfg#" in line:
            between = False
        elif between and "remote memory" in line:
            operation = "write" if "remote memory write" in line else "read"
        elif between and " by ucp_" in line:
            operation = ""
        elif between and operation and (row := _LAST_ROW.search(line)):
            found[operation] = row["transport"]
    return found
