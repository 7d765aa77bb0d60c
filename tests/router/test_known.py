"""What a router knows of its pods, without any of them."""

from __future__ import annotations

from types import MappingProxyType

import msgspec
import pytest
from tests.router.placement.fleets import SETTINGS, lease

from baton.core.errors import Unreached
from baton.openai import ServedModel
from baton.router.placement import Decision, Query
from baton.router.pods import Catalog, Pods
from baton.router.wire import Origin, Pool
from baton.state import Fleet, Link, LoadBoard, PrefixIndex, StateSettings
from baton.state.address import nowhere
from baton.testing import ManualClock
from baton.tiny import model_path


class Found:
    """A discovery that never finds anything else."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def wait(self, version: int) -> Fleet:
        return self.fleet


def known(fleet: Fleet) -> Pods:
    base = ServedModel.load(
        str(model_path()), names=("m",), max_length=0, vocabulary=0, created=0, use_generation_config=False
    )
    loads = LoadBoard(Link(StateSettings(), connected=nowhere()), "r")
    return Pods(Found(fleet), PrefixIndex(), loads, Catalog(base, ()), Pool(), SETTINGS, ManualClock())


@pytest.mark.parametrize("address", ["http://[10.0.0.1:8000]:8000", "http://a:99999", "nothing"])
def test_a_pod_whose_address_is_none_is_left_out_alone(address: str) -> None:
    """As one whose `host` was set with a port has it."""
    wrong = msgspec.structs.replace(lease("wrong", free=90_000), http=address)
    fleet = Fleet(MappingProxyType({"right": lease("right"), "wrong": wrong}), version=1)
    pods = known(fleet)
    generation = pods.generation
    assert generation is not None
    found = pods.place(generation.kind, Query(prompt_tokens=10, page_size=16))
    assert isinstance(found, Decision) and found.decode == "right"
    assert pods.origin("right") == Origin("right", 8000)
    with pytest.raises(Unreached):
        pods.origin("wrong")
    assert known(Fleet(MappingProxyType({"wrong": wrong}))).generation is None
