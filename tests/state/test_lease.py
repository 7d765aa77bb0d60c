"""The two messages that carry a lease: what is written is what is read, by older and newer readers."""

from __future__ import annotations

import msgspec
import pytest
from tests.state.simulated import lease

from baton.core.errors import InvalidField, ProtocolMismatch
from baton.state import WorkerLoad
from baton.state.lease import BEATEN, Beat, Facts, encode, read_beat, read_facts


def _beat() -> Beat:
    load = WorkerLoad(waiting=3, pages_free=7, prefill_tokens_per_s=41_000.5)
    return Beat(incarnation="inc-1", count=9, facts=2, expiry_ms=3000, draining=True, load=load, events=41)


def test_what_is_written_is_what_is_read() -> None:
    facts = Facts(3, lease(agents=(b"\x00rank 0", b"rank 1"), bandwidths={"w2": 241.5}, zone="b"))
    assert read_facts(encode(facts)) == facts
    assert read_beat(encode(_beat())) == _beat()


def test_a_beat_is_small() -> None:
    assert len(encode(_beat())) < 200


def test_an_old_reader_skips_what_a_new_writer_adds() -> None:
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(encode(_beat())), "new", {"more": 1}])
    assert read_beat(longer) == _beat()
    version, fields = msgspec.msgpack.decode(encode(Facts(1, lease())))
    assert read_facts(msgspec.msgpack.encode([version, {**fields, "new": 1}])) == Facts(1, lease())


def test_garbage_is_a_mismatch() -> None:
    for read in (read_beat, read_facts):
        with pytest.raises(ProtocolMismatch, match="cannot read a lease"):
            read(b"\x93garbage")
    with pytest.raises(ProtocolMismatch, match="utf-8"):
        read_facts(encode(Facts(1, lease())).replace(b"\xa2w1", b"\xa2w\xff"))
    with pytest.raises(ProtocolMismatch, match="no name for a worker"):
        read_facts(encode(Facts(1, lease())).replace(b"\xa2w1", b"\xa2{1"))


@pytest.mark.parametrize("id", ["", "a{b}", "a b", "-a", "x" * 300])
def test_a_name_that_would_break_keys_is_refused(id: str) -> None:
    with pytest.raises(InvalidField, match="no name"):
        lease(id)


def test_every_field_travels_in_one_of_the_two() -> None:
    assert set(BEATEN) <= set(type(lease()).__struct_fields__)
    assert set(BEATEN) <= set(Beat.__struct_fields__)
