"""What a lease says of an engine, and the small books that a membership keeps. No Redis, no engine."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from baton.core.errors import InvalidSetting
from baton.membership import Bandwidths, HeldPages, PodSettings, fits, lease_of
from baton.membership.lease import worker_load
from baton.protocol import engine as wire
from baton.state import WorkerLease

FACTS = wire.EngineFacts(
    pages=900, page_size=16, page_bytes=4096, max_model_len=128, vocab=100, eos=(1, 2), device="cpu",
    dtype="float32", attention="torch", tensor_parallel=2, fingerprint=b"\x00\xff", seconds=1.5,
    ranks=(b"secret metadata", b"of two ranks"),
)  # fmt: skip
POD = PodSettings(id="p-0", host="10.0.0.7", node="n1", zone="z1", generation="blue")


def lease(pod: PodSettings = POD, facts: wire.EngineFacts = FACTS, **fields: Any) -> WorkerLease:
    given = {"incarnation": "inc-1", "role": "prefill", "model": "m", "port": 8001}
    return lease_of(facts, pod, **{**given, "bound": "tcp://0.0.0.0:5600", **fields})


def test_a_lease_says_what_the_engine_is_and_where() -> None:
    made = lease()
    assert (made.id, made.incarnation, made.role, made.model) == ("p-0", "inc-1", "prefill", "m")
    assert (made.http, made.control) == ("http://10.0.0.7:8001", "tcp://10.0.0.7:5600")
    assert (made.model_fingerprint, made.layout_fingerprint) == ("00ff", "00ff/16")
    assert (made.pages, made.page_size, made.page_bytes, made.tensor_parallel) == (900, 16, 4096, 2)
    assert (made.max_model_len, made.vocabulary) == (128, 100)
    assert (made.node, made.zone, made.generation) == ("n1", "z1", "blue")
    assert made.load.pages_free == 900, "idle until its engine says otherwise"


def test_what_a_stranger_may_read_holds_no_way_into_the_pool() -> None:
    assert lease().agents == ()
    assert b"secret" not in msgspec.json.encode(lease())


def test_a_lease_as_json_is_read_back_whole() -> None:
    made = msgspec.structs.replace(lease(), bandwidths={"d-0": 2.5}, draining=True)
    assert msgspec.json.decode(msgspec.json.encode(made), type=WorkerLease) == made


@pytest.mark.parametrize(
    ("host", "bound", "control"),
    [
        ("10.0.0.7", "tcp://0.0.0.0:5600", "tcp://10.0.0.7:5600"),
        ("prefill-0.svc", "tcp://[::]:5600", "tcp://prefill-0.svc:5600"),
        ("fd00::7", "tcp://[::]:5600", "tcp://[fd00::7]:5600"),
        ("10.0.0.7", "ipc:///run/legs", "ipc:///run/legs"),
        ("10.0.0.7", "", ""),
    ],
)
def test_others_are_told_an_address_that_they_can_reach(host: str, bound: str, control: str) -> None:
    assert lease(replace(POD, host=host), bound=bound).control == control


def test_a_pod_is_called_like_its_host_unless_it_is_named() -> None:
    assert PodSettings().name == socket.gethostname()
    assert POD.name == "p-0"
    for wrong in ({"id": "a{b}"}, {"id": "-a"}, {"host": ""}, {"host": "http://x"}):
        with pytest.raises(InvalidSetting):
            PodSettings(**wrong)


def test_pages_are_exchanged_with_prefill_pods_of_the_same_layout_and_generation() -> None:
    mine = lease(replace(POD, id="d-0"), role="decode", bound="")
    assert fits(mine, lease())
    assert fits(mine, lease(role="unified"))
    assert not fits(mine, lease(role="unified", bound="")), "it listens for no legs"
    assert not fits(mine, lease(role="decode"))
    assert not fits(mine, lease(replace(POD, generation="green")))
    assert not fits(mine, lease(facts=replace(FACTS, page_size=32)))
    assert not fits(mine, lease(facts=replace(FACTS, fingerprint=b"other")))
    assert not fits(mine, lease(replace(POD, id="d-0"))), "itself"


def test_a_load_is_carried_whole() -> None:
    load = wire.Load(
        waiting=1, prefilling=2, running=3, pages_free=4, pages_cached=5, pages_evictable=6, pages_total=7,
        retractions=8, steps=9, prefill_tokens_queued=10, prefill_tokens_per_s=11.5, decode_step_ms=12.5,
    )  # fmt: skip
    told = msgspec.structs.asdict(worker_load(load))
    assert told == {name: getattr(load, name) for name in told}


def names(*numbers: int) -> bytes:
    return b"".join(bytes([number]) * 16 for number in numbers)


def test_held_pages_follow_what_the_engine_says() -> None:
    held = HeldPages()
    assert held.take(wire.Pages(b"", names(1, 2), anew=True)) == ([], [names(1), names(2)])
    assert held.take(wire.Pages(names(2), names(3, 4))) == ([names(2)], [names(3), names(4)])
    assert b"".join(asyncio.run(_list(held))) == names(1, 3, 4)


def test_a_telling_that_begins_anew_is_turned_into_what_changed() -> None:
    held = HeldPages()
    held.take(wire.Pages(b"", names(1, 2, 3), anew=True))
    evicted, stored = held.take(wire.Pages(b"", names(1, 9), anew=True))
    assert (evicted, stored) == ([names(3), names(2)], [names(9)]), "leaves first"
    assert sorted(asyncio.run(_list(held))) == [names(1), names(9)]


async def _list(held: HeldPages) -> list[bytes]:
    return list(await held.snapshot())


def path(rank: int, gb_s: float, worker: str = "inc-1") -> wire.Path:
    return wire.Path(worker, rank, True, "", gb_s, 99.0, "tcp")


def test_a_pod_s_bandwidth_is_that_of_all_ranks_each_at_its_slowest() -> None:
    books = Bandwidths()
    for one in (path(0, 4.0), path(0, 3.0), path(1, 5.0)):
        books.note("p-0", one)
    books.note("p-1", path(0, 1.0))
    assert books() == {"p-0": 8.0, "p-1": 1.0}
    books.note("p-0", path(0, 2.0, worker="inc-2"))  # it was restarted
    books.forget("p-1")
    assert books() == {"p-0": 2.0}
