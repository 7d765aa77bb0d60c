"""Messages arrive as they were sent, however their bytes are cut; what is no message ends the stream."""

from __future__ import annotations

import pytest

from baton.core.errors import PeerLost
from baton.router.siblings import Begun, Ended, Placed, Second, State, Ticked, Told, encode
from baton.router.siblings.told import HEAD, MOST_BYTES, Unpacking

SECOND = Second(
    number=7,
    spent=1.01,
    requests=3,
    prompt=5,
    cached=2,
    generated=9,
    ttft=((0.1, float("inf"), 2.0),),
    itl=(),
)
MESSAGES: list[Told] = [
    Begun([{"id": "a.0", "at": 1.5, "ttft_ms": None}], [SECOND]),
    Placed({"id": "b.0", "at": 2.5}),
    Ended({"id": "b.0", "ttft_ms": 3.25}),
    Ticked(SECOND, State(running=2, shunned=("d",), slow={"d": 2.5})),
]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bytes_may_be_cut_anywhere(size: int) -> None:
    data, unpacking, found = b"".join(map(encode, MESSAGES)), Unpacking(), list[Told]()
    for start in range(0, len(data), size):
        found += unpacking.feed(data[start : start + size])
    assert found == MESSAGES


@pytest.mark.parametrize(
    "data", [HEAD.pack(MOST_BYTES + 1), HEAD.pack(3) + b"abc", HEAD.pack(2) + b"\x91\x09"]
)
def test_what_is_no_message_is_a_loss(data: bytes) -> None:
    with pytest.raises(PeerLost):
        Unpacking().feed(encode(MESSAGES[1]) + data)
