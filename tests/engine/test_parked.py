"""Requests whose grammar is being compiled wait aside, and begin when it is or when they are meant."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.spawned import eventually

from baton.core.types import Request, SamplingParams
from baton.engine.parked import Parked
from baton.grammar import forms
from baton.grammar.matcher import KEPT, Grammars
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
    assert opened(parked) == [SUBMIT, ASK, LEG] and not parked
    assert not parked.takes(SUBMIT), "it is known from now on"


def opened(parked: Parked) -> list[wire.ToEngine]:
    found: list[wire.ToEngine] = []
    eventually(lambda: bool(found.extend(parked.ready()) or found))
    return found


def test_what_is_given_up_goes_at_once(parked: Parked, gate: threading.Event) -> None:
    for one in (SUBMIT, ASK, LEG):
        parked.takes(one)
    assert parked.takes(wire.Abort("s")) and parked.takes(wire.Abort("a"))
    assert not parked.takes(wire.AbortLeg("leg-1")), "whoever ends it has to tell that it ended"
    assert not parked and not parked.takes(wire.Abort("s"))


def test_what_is_said_of_one_waits_behind_it(parked: Parked, gate: threading.Event) -> None:
    for one in (SUBMIT, ASK, wire.Local("a"), wire.Over("try-1")):
        assert parked.takes(one)
    assert not parked.takes(wire.Local("another"))
    gate.set()
    assert opened(parked) == [SUBMIT, ASK, wire.Local("a"), wire.Over("try-1")]


def test_more_than_are_kept_begin_all_the_same(gate: threading.Event) -> None:
    gate.set()
    made = Parked(Grammars(lambda: Tokenizer.load(model_path()), 1536, ()))
    asked = [wire.Submit(request(f"s{n}", forms.choice([f"word {n}"]))) for n in range(3 * KEPT)]
    begun = [message for message in asked if not made.takes(message)]
    eventually(lambda: begun.extend(made.ready()) or not made, 20)  # type: ignore[func-returns-value, arg-type]
    assert len(begun) == len(asked)
