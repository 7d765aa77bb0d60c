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

import zmq

from baton.core.errors import BatonError, InvalidRequest, Refused
from baton.core.types import Finish
from baton.engine.batch import Batch
from baton.engine.build import Built, build
from baton.engine.loop import Engine
from baton.engine.profile import Profile
from baton.engine.spec import RankSpec, decode
from baton.engine.steps import from_step, to_step
from baton.protocol import engine as wire

log = logging.getLogger("baton.engine")

IDLE_POLL_MS = 1000
"""How long an idle rank sleeps between looks; messages wake it at once."""
STARVED_POLL_MS = 2
"""How long to wait when there is work but nothing can be launched or absorbed."""


def main() -> None:
    spec = decode(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    context = zmq.Context()
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
    outbox.close()
    context.term()
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
        outbox.send(wire.encode(wire.Loading(stage, done)))

    inbox = context.socket(zmq.PULL)
    inbox.bind(spec.inbox if spec.rank == 0 else spec.followers[spec.rank - 1])
    followers = _followers(spec, context)
    built = build(spec, progress if spec.rank == 0 else lambda stage, done: None)
    if spec.rank:
        _follow(built, inbox)
        return
    outbox.send(wire.encode(wire.Ready(wire.VERSION, built.facts(time.monotonic() - began))))
    _lead(built, inbox, outbox, followers)


def _followers(spec: RankSpec, context: zmq.Context[zmq.Socket[bytes]]) -> list[zmq.Socket[bytes]]:
    if spec.rank:
        return []
    sockets = []
    for address in spec.followers:
        socket = context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        sockets.append(socket)
    return sockets


def _follow(built: Built, inbox: zmq.Socket[bytes]) -> None:
    """Ranks 1…: carry out what rank 0 says, in order, until it says stop (an empty message)."""
    flights = []
    while data := inbox.recv():
        flights.append(built.runner.launch(from_step(wire.read_step(data))))
        if len(flights) > 2:
            flights.pop(0).result()  # surfaces errors, and bounds how far the host runs ahead


def _lead(
    built: Built, inbox: zmq.Socket[bytes], outbox: zmq.Socket[bytes], followers: list[zmq.Socket[bytes]]
) -> None:
    def announce(batch: Batch) -> None:
        data = wire.encode(to_step(batch))
        for socket in followers:
            socket.send(data)

    engine = Engine(
        built.scheduler, built.runner, overlap=built.config.overlap, announce=announce if followers else None
    )
    profile = Profile(built.config.profile, built.config.profile_from)
    progressed = True
    while True:
        wait = 0 if progressed else IDLE_POLL_MS if engine.idle else STARVED_POLL_MS
        if not _receive(engine, inbox, wait):
            break
        before = engine.scheduler.steps
        happened = engine.step()
        if engine.scheduler.steps != before:
            profile.step()
        progressed = not engine.idle and (
            bool(happened) or engine.scheduler.steps != before or engine.flying > 0
        )
        if happened.updates:
            outbox.send(wire.encode(wire.News(happened.updates, engine.scheduler.load())))
    for socket in followers:
        socket.send(b"")
    engine.close()


def _receive(engine: Engine, inbox: zmq.Socket[bytes], wait_ms: int) -> bool:
    """Take in every message that has come; False when told to stop."""
    while inbox.poll(wait_ms):
        wait_ms = 0
        match wire.read_to_engine(inbox.recv()):
            case wire.Submit(request=request):
                try:
                    engine.submit(request)
                except (InvalidRequest, Refused) as error:
                    engine.scheduler.updates.append(_refusal(request.id, error))
            case wire.Abort(id=id):
                engine.abort(id)
            case wire.Stop():
                return False
    return True


def _refusal(id: str, error: BatonError) -> wire.Update:
    field = getattr(error, "field", None)
    return wire.Update(id, finish=Finish.ERROR.value, error=str(error), code=error.code, field=field)


if __name__ == "__main__":
    main()
