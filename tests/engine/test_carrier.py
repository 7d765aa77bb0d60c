"""One rank's carrier over a real agent: what it makes of other workers that it cannot exchange pages with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.transfer.side import LAYOUT

from baton.engine.carrier import Carrier
from baton.protocol import engine as wire
from baton.transfer import Agent
from baton.transfer.memory import Kind, Region


@contextmanager
def carrier() -> Iterator[tuple[Carrier, Agent, list[wire.FromRank | wire.Fault]]]:
    pool = np.zeros(LAYOUT.bytes, dtype=np.uint8)
    agent = Agent(LAYOUT, Region(address=pool.ctypes.data, bytes=LAYOUT.bytes, kind=Kind.HOST))
    said: list[wire.FromRank | wire.Fault] = []
    made = Carrier(agent, [LAYOUT], said.append)
    try:
        yield made, agent, said
    finally:
        made.close()


@pytest.mark.parametrize("wrong", ["not msgpack", "another model", "half of the heads"])
def test_a_worker_whose_ranks_cannot_be_met_is_lost_and_nothing_else(wrong: str) -> None:
    """Its front said that it fits: it may be of another release."""
    with carrier() as (made, agent, said):
        info, half = agent.info(), LAYOUT.kv_heads // 2
        ranks = {
            "not msgpack": b"of another release",
            "another model": msgspec.msgpack.encode(replace(info, layout=replace(LAYOUT, model="other"))),
            "half of the heads": msgspec.msgpack.encode(replace(info, layout=replace(LAYOUT, kv_heads=half))),
        }
        made.obey(wire.Meet("stranger", (ranks[wrong],)))
        (lost,) = said
        assert isinstance(lost, wire.Lost) and lost.worker == "stranger"
        made.obey(wire.Expect("attempt", "stranger", 1.0))
        made.obey(wire.Part("stranger"))
        assert len(said) == 1
