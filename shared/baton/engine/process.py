"""One rank's process: `python -m baton.engine.process`, started by a worker's front process.

Rank 0 takes requests, schedules, and tells the others each step; the others carry steps out. The
process ends when it is told to, when its front process is gone (standard input closes), or at the
first error, which it reports as a Fault before it exits non-zero: nothing is served half-broken.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import zmq

from baton.core.errors import BatonError, DeadlineExceeded
from baton.engine.build import Built, build
from baton.engine.carrier import Carrier
from baton.engine.flight import Flight
from baton.engine.lead import Lead
from baton.engine.spec import RankSpec, decode
from baton.engine.steps import from_step
from baton.protocol import engine as wire
from baton.telemetry import logging_to

log = logging.getLogger("baton.engine")

GIL_SECONDS = 0.0005
"""How long one thread may hold the interpreter: the mover's looks must not wait for the loop's."""
INTRODUCTION_SECONDS = 120.0
"""How long the following ranks may take to say how they are reached."""


def main() -> None:
    spec = decode(sys.stdin.buffer.readline())
    with _logging(spec):
        _run(spec)


def _logging(spec: RankSpec) -> AbstractContextManager[None]:
    if spec.logs is None:
        return nullcontext()
    return logging_to(settings=spec.logs.settings, service=spec.logs.service, rank=spec.rank)


def _run(spec: RankSpec) -> None:
    sys.setswitchinterval(GIL_SECONDS)
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    outbox = context.socket(zmq.PUSH)
    outbox.setsockopt(zmq.LINGER, 2000)
    outbox.connect(spec.outbox)
    status = 0
    try:
        _serve(spec, context, outbox)
    except BaseException as error:
        status = 1
        log.exception("rank %d failed", spec.rank)
        code = error.code if isinstance(error, BatonError) else "internal_error"
        text = str(error) if isinstance(error, BatonError) else f"{type(error).__name__}: {error}"
        outbox.send(wire.encode(wire.Fault(spec.rank, code, text)))
    context.destroy(linger=1000)  # what was said last is sent, also by a process that fails
    # Collectives of other ranks may be waiting for this one for ever; no destructor may either.
    os._exit(status)


def _die_with_parent() -> None:
    """Standard input stays open as long as the front process lives."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(2)


def _serve(spec: RankSpec, context: zmq.Context[zmq.Socket[bytes]], outbox: zmq.Socket[bytes]) -> None:
    began = time.monotonic()

    def progress(stage: str, done: float) -> None:
        if spec.rank == 0:
            outbox.send(wire.encode(wire.Loading(stage, done)))

    inbox = context.socket(zmq.PULL)
    inbox.bind(spec.inbox if spec.rank == 0 else spec.followers[spec.rank - 1])
    followers = [_pushing(context, address) for address in spec.followers] if spec.rank == 0 else []
    built = build(spec, progress)
    carrier, reports = _carrier(spec, context, built)
    if spec.rank == 0:
        ranks = _introduced(spec, inbox, carrier)
        facts = built.facts(time.monotonic() - began, ranks)
        outbox.send(wire.encode(wire.Ready(wire.VERSION, facts)))
        Lead(built, inbox, outbox, followers, carrier).run()
    else:
        if carrier is not None and reports is not None:
            reports(wire.Introduced(spec.rank, carrier.info))
        _follow(built, inbox, carrier)
    if carrier is not None:
        carrier.close()
    for socket in (inbox, *followers):
        socket.close()


def _pushing(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address)
    return socket


def _carrier(
    spec: RankSpec, context: zmq.Context[zmq.Socket[bytes]], built: Built
) -> tuple[Carrier | None, Callable[[wire.FromRank | wire.Fault], None] | None]:
    """The rank's part in hand-overs, and the way its reports take to rank 0."""
    if built.agent is None:
        return None, None
    socket = _pushing(context, spec.inbox)
    front = _pushing(context, spec.outbox)
    lock = threading.Lock()  # the mover's thread reports; so does whoever sends what cannot be sent

    def report(message: wire.FromRank | wire.Fault) -> None:
        with lock:
            (front if isinstance(message, wire.Fault) else socket).send(wire.encode(message))

    return Carrier(built.agent, built.layouts, report), report


def _introduced(spec: RankSpec, inbox: zmq.Socket[bytes], carrier: Carrier | None) -> tuple[bytes, ...]:
    """How each rank is reached, in order; empty without hand-overs."""
    if carrier is None:
        return ()
    infos = {0: carrier.info}
    deadline = time.monotonic() + INTRODUCTION_SECONDS
    while len(infos) < spec.config.tensor_parallel:
        if not inbox.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            raise DeadlineExceeded(f"only {len(infos)} of {spec.config.tensor_parallel} ranks became ready")
        message = wire.read_to_engine(inbox.recv())
        assert isinstance(message, wire.Introduced), f"{message!r} before all ranks were ready"
        infos[message.rank] = message.info
    return tuple(infos[rank] for rank in sorted(infos))


def _follow(built: Built, inbox: zmq.Socket[bytes], carrier: Carrier | None) -> None:
    """Ranks 1…: carry out what rank 0 says, in order, until it says stop (an empty message)."""
    flights: list[Flight] = []
    while data := inbox.recv():
        message = wire.read_to_rank(data)
        if isinstance(message, wire.Step):
            flights.append(built.runner.launch(from_step(message)))
            if len(flights) > 2:
                flights.pop(0).result()  # surfaces errors, and bounds how far the host runs ahead
            continue
        assert carrier is not None, "a hand-over in an engine that was started without"
        if isinstance(message, wire.Send) and built.config.device == "cpu":
            while flights:  # the pages must be written before they are sent
                flights.pop(0).result()
        carrier.obey(message)


if __name__ == "__main__":
    main()
