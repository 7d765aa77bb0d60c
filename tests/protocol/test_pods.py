"""The wire between pods, where releases meet."""

from __future__ import annotations

import msgspec
import pytest

from baton.core.errors import ProtocolMismatch
from baton.core.types import Request
from baton.protocol import pods

REQUEST = Request(id="r", token_ids=(1, 2, 3))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_leg_without_a_trace_is_what_releases_without_traces_read() -> None:
    sent = msgspec.msgpack.decode(pods.encode(pods.Leg("att", REQUEST, 0, (4, 5), 9.0)))
    assert sent.keys() == {"type", "attempt", "request", "first", "pages", "timeout_s"}


def test_a_leg_brings_its_trace() -> None:
    leg = pods.Leg("att", REQUEST, 0, (4, 5), 9.0, lender="decode-1", trace=TRACE)
    assert pods.read(pods.encode(leg)) == leg


def test_what_cannot_be_read_is_a_mismatch_whatever_is_wrong_with_it() -> None:
    """Listeners take no other error: a listener that ends leaves its pod deaf."""
    leg = msgspec.msgpack.decode(pods.encode(pods.Leg("att", REQUEST, 0, (4, 5), 9.0)))
    strange = {**leg, "request": {**leg["request"], "sampling": {"top_p": 7.0}}}
    torn = pods.encode(pods.Refused("abc")).replace(b"abc", b"a\xffc")
    for data in (b"\xff", b"", torn, msgspec.msgpack.encode(strange)):
        with pytest.raises(ProtocolMismatch, match="cannot read a pod's message"):
            pods.read(data)


def test_a_leg_of_a_release_that_knows_no_traces_is_read() -> None:
    told = msgspec.msgpack.decode(pods.encode(pods.Leg("att", REQUEST, 0, (4,), 9.0)))
    read = pods.read(msgspec.msgpack.encode({**told, "lender": ""}))
    assert isinstance(read, pods.Leg) and read.trace == ""
