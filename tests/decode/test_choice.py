"""Which prefill worker a prompt goes to. Peers here are never entered: nothing is connected."""

from __future__ import annotations

from collections import Counter

from baton.decode.choice import choose
from baton.decode.peer import Peer
from baton.protocol import pods

HELLO = pods.Hello(pods.VERSION, "inc-d", "decode", b"", 16, ())


def peer(pod: str, waiting: int = 0, *, met: bool = True) -> Peer:
    made = Peer("tcp://127.0.0.1:1", HELLO, pod=pod)
    made.worker, made.waiting, made.met = f"inc-{pod}", waiting, met
    return made


def busy(**attempts: Peer) -> Counter[int]:
    return Counter(id(one) for one in attempts.values())


def test_the_one_with_the_least_to_do() -> None:
    a, b, c = peer("a", waiting=2), peer("b", waiting=1), peer("c")
    assert choose([a, b, c], busy(x=b)) is c
    assert choose([a, b, c], Counter({id(c): 2, id(b): 0})) is b


def test_the_router_s_choice_in_its_order_whatever_they_have_to_do() -> None:
    a, b, c = peer("a", waiting=9), peer("b", waiting=5), peer("c")
    assert choose([a, b, c], Counter(), prefer=("a", "b")) is a
    assert choose([a, b, c], Counter(), prefer=("a", "b"), tried=(a,)) is b
    assert choose([a, b, c], Counter(), prefer=("a", "b"), tried=(a, b)) is c
    assert choose([a, b, c], Counter(), prefer=("gone",)) is c


def test_who_leaves_or_is_gone_gets_nothing() -> None:
    a, b, c = peer("a"), peer("b"), peer("c")
    a.draining, b.leaving, c.worker = True, True, ""
    assert choose([a, b, c], Counter(), prefer=("a", "b", "c")) is None


def test_one_that_was_tried_rather_than_none() -> None:
    a = peer("a")
    assert choose([a], Counter(), tried=(a,)) is a


def test_a_path_that_is_still_being_set_up_comes_last() -> None:
    new, old = peer("new", met=False), peer("old", waiting=5)
    assert choose([new, old], Counter()) is old
    assert choose([new], Counter()) is new
    assert choose([new, old], Counter(), prefer=("new",)) is new
