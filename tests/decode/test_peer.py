"""A decode pod's end of the wire to a prefill worker: whom it gives leave to write, and whom it believes."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

import msgspec
import zmq
import zmq.asyncio

from baton.decode.peer import Peer
from baton.protocol import pods

M = TypeVar("M", bound=pods.PodMessage)
HELLO = pods.Hello(pods.VERSION, "decode", "decode", b"m", 16, (b"rank",))


class Owner:
    def __init__(self) -> None:
        self.lost: list[str] = []

    def joined(self, peer: Peer, hello: pods.Hello) -> bool:
        return True

    def heard(self, peer: Peer, message: pods.PodMessage) -> None: ...

    def gone(self, peer: Peer, worker: str, reason: str) -> None:
        self.lost.append(worker)


class Prefill:
    """The other end, that says only what it is told to."""

    def __init__(self) -> None:
        self.context = zmq.asyncio.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind("tcp://127.0.0.1:*")
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.visitor = b""

    async def say(self, message: pods.Message) -> None:
        await self.socket.send_multipart([self.visitor, pods.encode(message)])

    async def hear(self, kind: type[M]) -> M:
        """The next message of a kind; others are passed over."""
        async with asyncio.timeout(10):
            while True:
                self.visitor, data = await self.socket.recv_multipart()
                message = pods.read(data)
                if isinstance(message, kind):
                    return message

    async def answer(self, session: str, worker: str = "prefill") -> None:
        await self.say(msgspec.structs.replace(HELLO, worker=worker, role="prefill", session=session))


async def until_ready(peer: Peer) -> None:
    async with asyncio.timeout(10):
        while not peer.ready:
            await asyncio.sleep(0.005)


def test_leave_is_given_to_who_is_believed_and_never_again_for_what_was_begun_before_it_was_lost() -> None:
    async def check() -> None:
        prefill, owner = Prefill(), Owner()
        peer = Peer(prefill.address, HELLO)
        peer.owner = owner
        async with peer:
            first = (await prefill.hear(pods.Hello)).session
            await prefill.answer(first)
            await until_ready(peer)
            began = time.monotonic()
            await prefill.say(pods.Renew("another", 1.0))
            await prefill.say(pods.Renew("prefill", 2.0))
            assert await prefill.hear(pods.Renewed) == pods.Renewed("prefill", 2.0)
            assert began <= peer.permitted_at <= time.monotonic()
            peer.drop("to see what follows")
            assert owner.lost == ["prefill"]
            given = peer.permitted_at
            second = (await prefill.hear(pods.Hello)).session
            assert second != first
            await prefill.answer(first)  # to a hello of before: its old legs are still under way
            await prefill.say(pods.Renew("prefill", 3.0))
            await prefill.hear(pods.Hello)  # so it was not taken for an answer
            assert not peer.ready and peer.permitted_at == given
            await prefill.answer(second)
            await until_ready(peer)
            await prefill.say(pods.Renew("prefill", 4.0))
            assert await prefill.hear(pods.Renewed) == pods.Renewed("prefill", 4.0), (
                "3.0 was not to be answered"
            )
        prefill.context.destroy(linger=0)

    asyncio.run(check())


def test_two_connections_to_one_worker_are_two_sessions() -> None:
    sessions = {Peer("tcp://127.0.0.1:1", HELLO).hello.session for _ in range(3)}
    assert len(sessions) == 3 and "" not in sessions


def test_a_message_that_its_owner_fails_at_does_not_make_it_deaf() -> None:
    class Failing(Owner):
        def heard(self, peer: Peer, message: pods.PodMessage) -> None:
            raise ValueError("a mistake of ours")

    async def check() -> None:
        prefill = Prefill()
        peer = Peer(prefill.address, HELLO)
        peer.owner = Failing()
        async with peer:
            await prefill.answer((await prefill.hear(pods.Hello)).session)
            await until_ready(peer)
            await prefill.say(pods.Ended("att", True, ""))
            await prefill.say(pods.Ping(waiting=7))
            async with asyncio.timeout(10):
                while peer.waiting != 7:
                    await asyncio.sleep(0.005)
        prefill.context.destroy(linger=0)

    asyncio.run(check())
