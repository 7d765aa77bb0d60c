"""Requests whose grammar is being compiled wait aside, and begin when it is or when they are meant."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.spawned import eventually

from baton.core.types import Request, SamplingParams
from baton.engine.parked import Begins, Parked
from baton.grammar import forms
from baton.grammar.matcher import Grammars
from baton.protocol import engine as wire
from baton.tiny import model_path
from baton.tokens import Tokenizer


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Nothing is compiled before it is set."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def parked(gate: threading.Event) -> Parked:
    def slow() -> Tokenizer:
        gate.wait(20)
        return Tokenizer.load(model_path())

    return Parked(Grammars(slow, 1536, ()))


def request(id: str, grammar: str = "") -> Request:
    return Request(id=id, token_ids=(1,), sampling=SamplingParams(grammar=grammar))


YES = forms.choice(["yes"])
SUBMIT = wire.Submit(request("s", YES))
ASK = wire.Ask(request("a", YES), "try-1", "p-0", 5.0, 0)
LEG = wire.RunLeg(request("leg-1", YES), "d-0", 0, (1,), 5.0)


def test_who_has_no_grammar_waits_for_nobody(parked: Parked) -> None:
    assert not parked.takes(wire.Submit(request("free"))) and not parked
    assert not Parked(None).takes(SUBMIT)


def test_all_begin_when_it_is_compiled(parked: Parked, gate: threading.Event) -> None:
    for message in (SUBMIT, ASK, LEG):
        assert parked.takes(message)
    assert parked and parked.ready() == []
    gate.set()
    found: list[Begins] = []
    eventually(lambda: bool(found.extend(parked.ready()) or found))
    assert found == [SUBMIT, ASK, LEG] and not parked
    assert not parked.takes(SUBMIT), "it is known from now on"


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        (wire.Abort("s"), SUBMIT),
        (wire.Local("a"), ASK),
        (wire.Over("try-1"), ASK),
        (wire.AbortLeg("leg-1"), LEG),
    ],
)
def test_one_that_is_meant_begins_at_once(parked: Parked, message: wire.ToEngine, meant: Begins) -> None:
    """What it is told can be understood then."""
    for one in (SUBMIT, ASK, LEG):
        parked.takes(one)
    assert parked.meant(wire.Abort("another")) == []
    assert parked.meant(message) == [meant] and parked.meant(message) == []
