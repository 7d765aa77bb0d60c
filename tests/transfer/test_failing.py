"""What the mover says, and when, if a transfer cannot go its way: the peer stops, dies, or is left.

Over TCP a process that is stopped by a signal leaves transfers to it in flight for as long as one likes.
(Host memory of one machine is otherwise written by the kernel, which needs nothing of the target.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from tests.transfer.side import LAYOUT, Far, Side, push, replace

from baton.core.errors import Draining, PeerLost, ProtocolMismatch, QueueFull
from baton.transfer.messages import PeerInfo
from baton.transfer.orders import (
    Aborted,
    Landed,
    Limits,
    Moved,
    Outcome,
    Overdue,
    PeerDropped,
    Quieted,
)

PAGES = list(range(1, 24))


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    """The far process; agents made here and there while this module runs use TCP alone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UCX_TLS", "tcp")
        side = Far()
        yield side
        side.kill()


@pytest.fixture(scope="module")
def there(far: Far) -> PeerInfo:
    info = far.open("shared", LAYOUT)
    assert isinstance(info, PeerInfo)
    return info


@pytest.fixture
def stopped(near: Side, far: Far, there: PeerInfo) -> Iterator[Far]:
    """The far side, stopped, after the near rank `here` has met it."""
    near.open("here", LAYOUT, 0, Limits(linger_s=20.0, settle_s=0.1))
    near.meet("here", there)
    far.pause()
    yield far
    far.go_on()


def test_a_cancel_in_flight_is_answered_when_nothing_can_land_any_more(
    near: Side, stopped: Far, there: PeerInfo
) -> None:
    near.ranks["here"].pool[:] = 7
    near.move("here", push(there.incarnation, PAGES, PAGES, attempt="a"))
    time.sleep(0.05)
    near.ranks["here"].mover.cancel("a")
    moved = near.wait("here", Moved)
    assert (moved.outcome, moved.quiet) == (Outcome.CANCELLED, False)
    time.sleep(0.1)
    assert near.rest("here") == [], "it can still land, so nobody may say otherwise"
    stopped.go_on()
    assert near.wait("here", Quieted) == Quieted("a", 0, there.incarnation)
    assert near.wait("here", Aborted) == Aborted("a")
    stopped.put("shared", bytes([9]) * LAYOUT.bytes)
    time.sleep(0.2)
    assert stopped.is_all("shared", 9), "a byte landed after it was said that none would"
    near.move("here", push(there.incarnation, [1], [1], attempt="a", chunk=1))
    late = near.wait("here", Moved)
    assert (late.outcome, late.bytes, late.quiet) == (Outcome.CANCELLED, 0, True)
    near.move("here", push(there.incarnation, [1], [1], attempt="b"))
    assert near.wait("here", Moved).outcome is Outcome.DONE, "other attempts go on"


def test_a_cancelled_order_posts_no_further_part(near: Side, far: Far, there: PeerInfo) -> None:
    near.open("here", LAYOUT, 0, Limits(window=1, part_descriptors=1))
    near.meet("here", there)
    far.put("shared", bytes([1]) * LAYOUT.bytes)
    near.ranks["here"].pool[:] = 2
    far.pause()
    near.move("here", push(there.incarnation, PAGES, PAGES[::-1], attempt="halves"))
    time.sleep(0.05)
    near.ranks["here"].mover.cancel("halves")
    far.go_on()
    near.wait("here", Aborted)
    there_now = far.get("shared")
    landed = sum(there_now[page * LAYOUT.page_bytes] == 2 for page in PAGES)
    assert landed == 1, "one part was in flight"


def test_a_cancel_before_anything_is_posted_is_answered_at_once(
    near: Side, far: Far, there: PeerInfo
) -> None:
    near.open("here", LAYOUT)
    near.meet("here", there)
    for chunk in (0, 1):
        near.move("here", push(there.incarnation, [1], [1], attempt="x", chunk=chunk, ready=lambda: False))
    near.ranks["here"].mover.cancel("x")
    assert [near.wait("here", Moved).outcome for _ in range(2)] == [Outcome.CANCELLED] * 2
    assert near.wait("here", Aborted, 1.0) == Aborted("x")
    near.ranks["here"].mover.cancel("never heard of")
    assert near.wait("here", Aborted, 1.0) == Aborted("never heard of")


def test_a_transfer_that_does_not_end_is_reported_at_its_deadline_and_quiet_later(
    near: Side, stopped: Far, there: PeerInfo
) -> None:
    begin = time.monotonic()
    near.move("here", push(there.incarnation, PAGES, PAGES, timeout_s=0.3))
    moved = near.wait("here", Moved)
    assert 0.25 < time.monotonic() - begin < 2.0
    assert (moved.outcome, moved.quiet) == (Outcome.TIMED_OUT, False)
    stopped.go_on()
    near.wait("here", Quieted)


def test_closing_waits_until_what_is_in_flight_has_settled(near: Side, stopped: Far, there: PeerInfo) -> None:
    near.move("here", push(there.incarnation, PAGES, PAGES, attempt="open"))
    time.sleep(0.05)
    rank = near.ranks["here"]
    rank.mover.cancel("open")
    assert near.wait("here", Moved).quiet is False
    rank.mover.close()
    kinds = [type(report) for report in near.rest("here")]
    assert kinds == [PeerDropped, Quieted, Aborted]


def test_a_peer_that_never_ends_a_transfer_is_dropped(near: Side, far: Far, there: PeerInfo) -> None:
    near.open("here", LAYOUT, 0, Limits(linger_s=0.2, settle_s=0.3))
    near.meet("here", there)
    far.pause()
    try:
        near.move("here", push(there.incarnation, PAGES, PAGES, timeout_s=0.2))
        assert near.wait("here", Moved).outcome is Outcome.TIMED_OUT
        near.wait("here", PeerDropped, 5.0)
        begin = time.monotonic()
        near.wait("here", Quieted, 5.0)
        assert time.monotonic() - begin > 0.2, "copies already submitted get time to settle"
        near.move("here", push(there.incarnation, [1], [1]))
        assert near.wait("here", Moved).outcome is Outcome.PEER_LOST
    finally:
        far.go_on()


def test_dropping_a_peer_fails_its_transfers_and_no_others(near: Side, stopped: Far, there: PeerInfo) -> None:
    other = near.open("other", LAYOUT)
    near.meet("here", other)
    near.move("here", push(there.incarnation, PAGES, PAGES, attempt="lost"))
    waiting = push(there.incarnation, [1], [1], attempt="lost", chunk=1, ready=lambda: False)
    near.move("here", waiting)
    time.sleep(0.05)
    near.drop("here", there.incarnation)
    moved = sorted((near.wait("here", Moved) for _ in range(2)), key=lambda m: m.chunk)
    assert [m.outcome for m in moved] == [Outcome.PEER_LOST] * 2
    assert [m.quiet for m in moved] == [False, True]
    assert near.wait("here", PeerDropped).peer == there.incarnation
    assert near.wait("here", Quieted).chunk == 0
    near.move("here", push(other.incarnation, PAGES, PAGES))
    assert near.wait("here", Moved).outcome is Outcome.DONE
    stopped.go_on()
    near.meet("here", there)
    near.move("here", push(there.incarnation, PAGES, PAGES))
    assert near.wait("here", Moved).outcome is Outcome.DONE, "the same peer can be met again"


def test_a_peer_killed_in_the_middle_is_reported_and_its_successor_is_another_peer(
    near: Side, far: Far, there: PeerInfo
) -> None:
    near.open("here", LAYOUT, 0, Limits(settle_s=0.1))
    near.meet("here", there)
    doomed = Far()
    victim = doomed.open("victim", LAYOUT)
    near.meet("here", victim)
    doomed.pause()
    begin = time.monotonic()
    near.move("here", push(victim.incarnation, PAGES, PAGES, timeout_s=10.0))
    near.move("here", push(victim.incarnation, PAGES, PAGES, timeout_s=10.0, ready=lambda: False))
    time.sleep(0.1)
    doomed.kill()
    outcomes = [near.wait("here", Moved) for _ in range(2)]
    assert time.monotonic() - begin < 9.0
    assert [moved.outcome for moved in outcomes] == [Outcome.PEER_LOST] * 2, outcomes
    assert near.wait("here", PeerDropped).peer == victim.incarnation

    near.move("here", push(there.incarnation, PAGES, PAGES))
    assert near.wait("here", Moved).outcome is Outcome.DONE, "the agent is not usable with another peer"
    again = far.open("victim", LAYOUT)
    assert again.incarnation != victim.incarnation
    near.meet("here", again)
    near.ranks["here"].pool[:] = 5
    near.move("here", push(again.incarnation, PAGES, PAGES))
    assert near.wait("here", Moved).outcome is Outcome.DONE
    assert far.is_all("victim", 5)
    far.close("victim")


def test_meeting_a_dead_peer_fails(near: Side, far: Far) -> None:
    near.open("here", LAYOUT, 0, Limits(path_s=3.0))
    gone = far.open("gone", LAYOUT)
    far.close("gone")
    begin = time.monotonic()
    answer = near.ranks["here"].mover.add_peer(gone)
    error = answer.exception(10.0)
    assert error is not None and time.monotonic() - begin < 8.0
    assert near.ranks["here"].agent.peers == ()


def test_peers_that_do_not_fit_are_refused(near: Side, there: PeerInfo) -> None:
    near.open("here", replace(LAYOUT, model="another"))
    add = near.ranks["here"].mover.add_peer
    with pytest.raises(ProtocolMismatch):
        add(there).result(5.0)
    near.open("twin", LAYOUT)
    with pytest.raises(ProtocolMismatch, match="metadata of another"):
        near.ranks["twin"].mover.add_peer(replace(there, incarnation="nobody")).result(5.0)


def test_an_order_that_cannot_be_carried_out_fails_alone(near: Side, there: PeerInfo) -> None:
    near.open("here", LAYOUT)
    near.meet("here", there)

    def broken() -> bool:
        raise RuntimeError("the device is lost")

    wrong = [
        push("nobody", [1], [1]),
        push(there.incarnation, [1, 2], [1]),
        push(there.incarnation, [1], [24]),
        push(there.incarnation, [-1], [1]),
        push(there.incarnation, [1], [1], ready=broken),
        push(there.incarnation, [1], [1], ready=lambda: False, timeout_s=0.1),
    ]
    for order in wrong:
        near.move("here", order)
    ended = {moved.attempt: moved for moved in (near.wait("here", Moved) for _ in wrong)}
    assert [ended[order.attempt].outcome for order in wrong] == [
        Outcome.PEER_LOST,
        Outcome.FAILED,
        Outcome.FAILED,
        Outcome.FAILED,
        Outcome.FAILED,
        Outcome.TIMED_OUT,
    ]
    assert "device is lost" in ended[wrong[4].attempt].reason
    assert all(moved.quiet and moved.bytes == 0 for moved in ended.values())
    near.move("here", push(there.incarnation, PAGES, PAGES))
    assert near.wait("here", Moved).outcome is Outcome.DONE


def test_only_what_is_expected_to_the_letter_is_reported(near: Side, far: Far, there: PeerInfo) -> None:
    here = near.open("here", LAYOUT)
    near.meet("here", there)
    far.expect("shared", "12", {here.incarnation: 0})
    far.expect("shared", "13", {here.incarnation: 0})
    far.expect("shared", "other sender", {"somebody": 0})
    far.expect("shared", "other rank", {here.incarnation: 3})
    far.forget("shared", "13")
    before = far.counts("shared").stray
    for attempt in ("1", "123", "13", "other sender", "other rank", "12"):
        near.move("here", push(there.incarnation, [1], [1], attempt=attempt))
        assert near.wait("here", Moved).outcome is Outcome.DONE
    assert far.wait("shared", Landed).attempt == "12"
    deadline = time.monotonic() + 5.0
    while far.counts("shared").stray < before + 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert far.counts("shared").stray >= before + 5  # late notes of tests before may come too
    assert far.rest("shared") == []


def test_an_attempt_that_never_completes_is_overdue(near: Side) -> None:
    here = near.open("here", LAYOUT)
    near.expect("here", "late", {here.incarnation: 4, "b": 2}, 0.1)
    assert near.wait("here", Overdue, 2.0) == Overdue("late", (2, 4))


def test_orders_are_bounded(near: Side, there: PeerInfo) -> None:
    near.open("here", LAYOUT, 0, Limits(orders=3))
    near.meet("here", there)
    for _ in range(3):
        near.move("here", push(there.incarnation, [1], [1], ready=lambda: False))
    with pytest.raises(QueueFull):
        near.move("here", push(there.incarnation, [1], [1]))


def test_closing_ends_everything_and_says_so(near: Side, there: PeerInfo) -> None:
    near.open("first", LAYOUT)  # what a first agent leaves in the process is UCX's own
    near.close("first")
    threads = os.listdir("/proc/self/task")
    near.open("here", LAYOUT)
    near.meet("here", there)
    near.move("here", push(there.incarnation, [1], [1], attempt="open", ready=lambda: False))
    rank = near.ranks["here"]
    meeting = rank.mover.add_peer(replace(there, incarnation="0" * 32))
    rank.mover.close()
    rank.mover.close()
    moved = near.wait("here", Moved, 0.1)
    assert (moved.attempt, moved.outcome, moved.quiet) == ("open", Outcome.CANCELLED, True)
    assert meeting.exception(0.1) is not None
    assert rank.agent.peers == ()
    deadline = time.monotonic() + 5.0  # a thread that was joined may show for a moment
    while len(os.listdir("/proc/self/task")) > len(threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) <= len(threads)
    with pytest.raises(Draining):
        rank.mover.cancel("anything")
    with pytest.raises(Draining):
        near.move("here", push(there.incarnation, [1], [1]))


def test_an_idle_mover_costs_next_to_nothing(near: Side, far: Far) -> None:
    near.open("here", LAYOUT)
    time.sleep(0.05)
    begin = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - begin < 0.05, "a tenth of a core while there is nothing to do"


def test_a_lost_peer_is_an_error_of_the_agent(near: Side) -> None:
    near.open("here", LAYOUT)
    with pytest.raises(PeerLost):
        near.ranks["here"].agent.peer("nobody")


def test_a_guarded_order_is_posted_only_with_leave(near: Side, far: Far, there: PeerInfo) -> None:
    near.open("here", LAYOUT)
    near.meet("here", there)
    mover = near.ranks["here"].mover
    far.put("shared", bytes([1]) * LAYOUT.bytes)
    near.ranks["here"].pool[:] = 2
    for until in (None, time.monotonic() - 0.01):
        if until is not None:
            mover.permit(there.incarnation, until)
        near.move("here", push(there.incarnation, PAGES, PAGES, guarded=True, timeout_s=0.2))
        moved = near.wait("here", Moved)
        assert (moved.outcome, moved.bytes, moved.quiet) == (Outcome.TIMED_OUT, 0, True)
    assert far.is_all("shared", 1), "it wrote without leave"
    near.move("here", push(there.incarnation, PAGES, PAGES, guarded=True))
    mover.permit(there.incarnation, time.monotonic() + 60)
    mover.permit(there.incarnation, time.monotonic() - 60)  # said earlier and heard later: changes nothing
    assert near.wait("here", Moved).outcome is Outcome.DONE
    assert far.is_all("shared", 2)
    near.drop("here", there.incarnation)
    near.meet("here", there)
    near.move("here", push(there.incarnation, PAGES, PAGES, guarded=True, timeout_s=0.2))
    assert near.wait("here", Moved).outcome is Outcome.TIMED_OUT, "who is met anew has given no leave yet"


def test_bytes_in_flight_whose_leave_lapses_have_their_peer_dropped(
    near: Side, stopped: Far, there: PeerInfo
) -> None:
    began = time.monotonic()
    near.ranks["here"].mover.permit(there.incarnation, began + 0.5)
    near.move("here", push(there.incarnation, PAGES, PAGES, guarded=True, timeout_s=60.0))
    moved = near.wait("here", Moved)
    assert (moved.outcome, moved.quiet) == (Outcome.PEER_LOST, False)
    assert time.monotonic() - began >= 0.5
    assert near.wait("here", PeerDropped) == PeerDropped(there.incarnation, moved.reason)
    near.wait("here", Quieted)
