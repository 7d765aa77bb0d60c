"""A transfer between two processes of this machine, measured by the code with which pods measure theirs.

Two processes make a pool and an agent each, as two pods' ranks would; one writes into the other and reads
from it. Host memory always, GPU memory where there is a GPU. Only those processes load torch and NIXL.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton.cli.doctor.finding import Finding, fine, note, wrong
from baton.cli.doctor.machine import gpus

if TYPE_CHECKING:
    from baton.transfer import Agent, Measured

BUSY = 3.0
"""Processes for each core, from which on the time of a copy says more about them than about the path."""
TRIES = 4
"""A machine that is busy with other things may be slow once, a broken path always is."""
PATIENCE_S = 60.0
"""For making two pools and moving some gigabytes between them; torch takes most of it."""


def try_transfers(root: Path = Path("/")) -> Iterator[Finding]:
    yield tried("transfer between processes", "cpu", "cpu")
    count = len(gpus(root))
    if count:
        yield tried(
            "transfer between GPUs" if count > 1 else "transfer within the GPU",
            "cuda:0",
            f"cuda:{count - 1 and 1}",
        )


def tried(what: str, mine: str, theirs: str) -> Finding:
    """Never raises: what keeps a transfer from being made is what was to be found out."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="baton-doctor-") as folder, contextlib.ExitStack() as stack:
        ends = []
        for name, device in (("mine", mine), ("theirs", theirs)):
            near, far = spawn.Pipe()
            process = spawn.Process(
                target=_side, args=(far, device, str(Path(folder) / f"{name}.log")), daemon=True
            )
            process.start()
            far.close()
            stack.callback(_end, process)
            ends.append(stack.enter_context(near))
        try:
            infos = [_heard(end) for end in ends]
            ends[0].send(infos[1])
            return _judged(what, _heard(ends[0]), os.getloadavg()[0] / len(os.sched_getaffinity(0)))
        except (EOFError, OSError, TimeoutError, RuntimeError) as error:
            why = str(error) or type(error).__name__
            return wrong(what, f"cannot be made: {why}", "pods would have no hand-over; check NIXL and UCX")


def _judged(what: str, verdict: Any, load: float) -> Finding:
    """`load`: processes that want a core, for each that there is."""
    from baton.transfer.path import judge

    found = judge(*verdict)
    message = found.message.partition(": ")[2]
    over = ", ".join(sorted(set(found.transports.values())))
    if not found.ok and load > BUSY and "tcp" not in over and not verdict[0].gpu:
        return note(what, f"cannot be judged, {load:.0f} processes want each core here: {message}")
    if not found.ok:
        text = f"SLOW PATH ({found.expected.transport} was expected): {message.partition(';')[0]}"
        return wrong(what, text, found.expected.advice)
    if "tcp" in over and found.expected.transport != "tcp":
        return wrong(
            what, f"goes over TCP instead of {found.expected.transport}: {message}", found.expected.advice
        )
    if found.expected.transport == "tcp":
        return note(what, f"nothing faster than TCP is to be expected here: {message}")
    return fine(what, f"{found.expected.transport}: {message}")


def _heard(end: Connection) -> Any:
    if not end.poll(PATIENCE_S):
        raise TimeoutError(f"no answer within {PATIENCE_S:.0f} s")
    told = end.recv()
    if isinstance(told, str):
        raise RuntimeError(told)
    return told


def _end(process: Any) -> None:
    process.terminate()
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()


def _side(end: Connection, device: str, log: str) -> None:
    """One of the two processes. Says how it is reached, measures whom it is told of, stays until ended."""
    from baton.transfer.path import transport_log

    os.environ.update(transport_log(log))
    try:
        _serve(end, device, Path(log))
    except Exception as error:
        with contextlib.suppress(OSError):
            end.send(f"{type(error).__name__}: {error}")


def _serve(end: Connection, device: str, log: Path) -> None:
    from baton.transfer import Agent, PoolLayout, allocate
    from baton.transfer.path import judge, transports

    # A page of Qwen3-8B: 2.36 MB, for which the expected rates hold.
    layout = PoolLayout(
        pages=2, layers=36, page_size=16, head_dim=128, dtype="bfloat16", kv_heads=8, total_kv_heads=8,
        model="doctor",
    )  # fmt: skip
    memory = allocate(layout.bytes, device)
    if memory.tensor.device.type == "cpu":
        memory.tensor.zero_()
    agent = Agent(layout, memory.region)
    end.send(agent.info())
    theirs = end.recv()  # the other side waits here until it is ended
    agent.add_peer(theirs)
    deadline = time.monotonic() + PATIENCE_S
    for _ in range(TRIES):
        measured = _measured(agent, theirs.incarnation, deadline)
        used = transports(log.read_text()) if log.exists() else {}
        if judge(agent.place, theirs.place, measured, used).ok:
            break
    end.send((agent.place, theirs.place, measured, used))
    end.recv()


def _measured(agent: Agent, incarnation: str, deadline: float) -> Measured:
    from baton.transfer.path import measure

    steps = measure(agent, incarnation)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            measured: Measured = done.value
            return measured
        if time.monotonic() > deadline:
            raise TimeoutError("the transfer does not end")
