"""The wire between front and ranks: what is said arrives, and what is not understood is an error."""

from __future__ import annotations

import msgspec
import pytest

from baton.core.errors import InvalidField, ProtocolMismatch
from baton.core.types import Request, SamplingParams, TokenLogprob
from baton.protocol import engine as wire

FACTS = wire.EngineFacts(
    pages=9, page_size=16, page_bytes=4096, max_model_len=128, vocab=100, eos=(1, 2), device="cpu",
    dtype="float32", attention="torch", tensor_parallel=1, fingerprint=b"\x00\xff", seconds=1.5,
)  # fmt: skip
LOAD = wire.Load(
    waiting=1, prefilling=2, running=3, pages_free=4, pages_cached=5, pages_evictable=6, pages_total=7,
    retractions=8, steps=9,
)  # fmt: skip
LOGPROB = TokenLogprob(5, -0.25, 2, ((4, -0.125), (5, -0.25)))
REQUEST = Request(
    id="é", token_ids=(0, 2**31 - 1), identities=(b"\x00" * 16,), priority=-3, salt=b"\xfe",
    sampling=SamplingParams(
        max_tokens=None, seed=2**64 - 1, logit_bias=((3, -100.0),), stop=("\n", "ß"), stop_token_ids=(7,),
        logprobs=0, prompt_logprobs=20, top_k=-1,
    ),
)  # fmt: skip
UPDATES = [
    wire.Update("a", 7, cached=0, logprob=LOGPROB, scores=(LOGPROB, LOGPROB)),
    wire.Update("b", 0, finish="length"),
    wire.Update("c", finish="error", error="seed: is odd", code="invalid_value", field="seed"),
]


@pytest.mark.parametrize(
    "message",
    [
        wire.Submit(REQUEST),
        wire.Submit(Request(id="x", token_ids=(1,))),
        wire.Abort("a"),
        wire.Watch(),
        wire.Stop(),
    ],
)
def test_what_the_front_says_arrives(message: wire.ToEngine) -> None:
    assert wire.read_to_engine(wire.encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        wire.Ready(wire.VERSION, FACTS),
        wire.Loading("weights", 0.5),
        wire.News(UPDATES, LOAD),
        wire.News([], LOAD),
        wire.Pages(b"e" * 16, b"s" * 32),
        wire.Pages(b"", b"", anew=True),
        wire.Fault(3, "worker_died", "gone"),
    ],
)
def test_what_the_ranks_say_arrives(message: wire.ToFront) -> None:
    assert wire.read_to_front(wire.encode(message)) == message


def test_a_message_names_its_kind() -> None:
    assert msgspec.msgpack.decode(wire.encode(wire.Abort("a"))) == {"type": "Abort", "id": "a"}


def _packed(message: object) -> bytes:
    return msgspec.msgpack.encode(message)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_packed({"type": "Pause"}), "Pause"),
        (_packed({"id": "a"}), "type"),
        (_packed({"type": "Abort"}), "id"),
        (_packed({"type": "Abort", "id": 5}), "str"),
        (_packed({"type": "Abort", "id": "a", "why": "later versions say more"}), "why"),
        (b"", "truncated|empty"),
        (wire.encode(wire.Abort("abc")).replace(b"abc", b"a\xffc"), "utf-8"),
        (wire.encode(wire.Abort("a"))[:-1], "truncated"),
        (wire.encode(wire.Abort("a")) + b"\x00", "trailing"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_never_skipped(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolMismatch, match=why):
        wire.read_to_engine(data)


def test_a_value_that_cannot_be_is_named() -> None:
    request = {"id": "a", "token_ids": [1], "sampling": {"top_p": 7.0}}
    with pytest.raises(InvalidField, match="top_p: must be above 0"):
        wire.read_to_engine(_packed({"type": "Submit", "request": request}))


def test_one_end_s_messages_are_not_the_other_s() -> None:
    with pytest.raises(ProtocolMismatch):
        wire.read_to_front(wire.encode(wire.Stop()))
    with pytest.raises(ProtocolMismatch):
        wire.read_to_engine(wire.encode(wire.Loading("weights", 1.0)))
    with pytest.raises(ProtocolMismatch):
        wire.read_to_rank(wire.encode(wire.Stop()))
