"""A prefill pod that comes back under its old name: what its predecessor still says or writes is for nobody.

The prefill pod is an impostor that speaks the wire between pods and writes with NIXL, because a real one
would not send what this is about. The decode pod is a process that knows nothing of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest
import zmq
from tests.faults.fleet import HANDOFF, DecodePod, body, free_port
from tests.faults.prompts import texts, wanted
from tests.spawned import await_true
from tests.transfer.side import Side, push

from baton.engine import LLM
from baton.protocol import pods
from baton.transfer import Moved, Outcome, PeerInfo, Span

ANSWER = 800
"""Tokens: long enough that all of this happens while they are written."""

M = TypeVar("M", bound=pods.PodMessage)


class Impostor:
    """One end of the wire between pods, that says only what it is told to."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context[zmq.Socket[bytes]]()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.bind(address)
        self.side = Side()
        self.visitor = b""
        self.target: PeerInfo | None = None
        self.hello: pods.Hello | None = None

    def hear(self, kind: type[M]) -> M:
        """The next message of a kind; others are passed over."""
        while True:
            self.visitor, data = self.socket.recv_multipart()
            message = pods.read(data)
            if isinstance(message, kind):
                return message

    def say(self, message: pods.Message) -> None:
        self.socket.send_multipart([self.visitor, pods.encode(message)])

    def prepare(self, worker: str, heard: pods.Hello) -> pods.Hello:
        """Another incarnation, with a pool and an agent of its own; what it will say."""
        target = msgspec.msgpack.decode(heard.ranks[0], type=PeerInfo)
        info = self.side.open(worker, target.layout)
        self.side.meet(worker, target)
        pool = self.side.ranks[worker].pool.view(np.float32)
        pool[:] = np.random.default_rng(0).normal(scale=3.0, size=pool.shape)
        self.target = target
        rank = msgspec.msgpack.encode(info)
        return msgspec.structs.replace(heard, worker=worker, role="prefill", ranks=(rank,))

    def write(self, worker: str, leg: pods.Leg) -> None:
        assert self.target is not None
        span = Span(0, 0, self.target.layout.kv_heads)
        mine = range(1, 1 + len(leg.pages))
        order = push(self.target.incarnation, mine, leg.pages, attempt=leg.attempt, span=span)
        self.side.move(worker, order)
        moved = self.side.wait(worker, Moved)
        assert isinstance(moved, Moved) and moved.outcome is Outcome.DONE

    def close(self) -> None:
        self.side.close_all()
        self.context.destroy(linger=0)


@pytest.fixture
def address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def decode(address: str, tmp_path: Path) -> Iterator[DecodePod]:
    words = ["--role", "decode", "--names", "tiny", "--handoff.prefill", address, *HANDOFF]
    pod = DecodePod("baton.decode", free_port(), words, tmp_path / "decode.log")
    try:
        pod.await_ready()
        yield pod
    finally:
        pod.close()


def test_what_an_old_incarnation_says_and_writes_is_for_nobody(
    address: str, decode: DecodePod, alone: LLM
) -> None:
    (prompt,) = texts(1, 2000, seed=6)
    (want,) = wanted(alone, [prompt], ANSWER)
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(decode.complete(prompt, ANSWER)))
    impostor = Impostor(address)
    try:
        heard = impostor.hear(pods.Hello)
        old, new = (impostor.prepare(worker, heard) for worker in ("old", "new"))
        impostor.hear(pods.Hello)
        impostor.say(old)
        await_true(lambda: decode.metric("baton_peer_bandwidth_bytes_per_second") > 0, 10)
        asking.start()
        leg = impostor.hear(pods.Leg)
        impostor.say(new)
        await_true(lambda: decode.metric("baton_handoff_failures_total") == 1, 10)
        # The old one could still write them.
        await_true(lambda: decode.metric("baton_fenced_pages") == len(leg.pages), 10)
        impostor.say(pods.First(leg.attempt, 7, None, (), 0))
        impostor.write("old", leg)
        impostor.say(pods.Ended(leg.attempt, complete=True))
        assert not answers, "it was over before anything was said"
        asking.join(60)
        assert answers == [want]
    finally:
        impostor.close()
        if asking.ident is not None:
            asking.join(60)


def test_nobody_to_prefill_is_503_and_when_to_come_back(address: str, tmp_path: Path) -> None:
    words = ["--role", "decode", "--names", "tiny", "--handoff.prefill", address, *HANDOFF]
    words += ["--handoff.allow_local", "false"]
    pod = DecodePod("baton.decode", free_port(), words, tmp_path / "decode.log")
    try:
        pod.await_ready()
        refused = pod.http.post("/v1/completions", json=body("There is nobody to compute this prompt.", 4))
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    finally:
        pod.close()
