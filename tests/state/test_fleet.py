"""Who lives and who does not, judged by hand-made readings at hand-made times."""

from __future__ import annotations

import msgspec
from tests.state.simulated import lease

from baton.state import Change, Fleet, What, WorkerLease, WorkerLoad, changes
from baton.state.fleet import FORGET_S, Sightings
from baton.state.lease import Beat, Facts

EXPIRY_S = 3.0


class Story:
    """One board's readings of workers that are described by hand."""

    def __init__(self) -> None:
        self.sightings = Sightings()
        self.fleet = Fleet()
        self.beats: dict[str, Beat | None] = {}
        self.facts: dict[str, Facts] = {}

    def beat(self, lease: WorkerLease, count: int, version: int = 1, withdrawn: bool = False) -> None:
        """The worker writes."""
        self.facts[lease.id] = Facts(version, lease)
        self.beats[lease.id] = Beat(
            incarnation=lease.incarnation,
            count=count,
            facts=version,
            expiry_ms=round(EXPIRY_S * 1000),
            draining=lease.draining,
            load=lease.load,
            events=lease.events,
            withdrawn=withdrawn,
        )

    def look(self, now: float) -> list[tuple[What, str]]:
        """The board reads; what it says has changed."""
        facts = {
            id: self.facts[id]
            for id, beat in self.beats.items()
            if beat is not None and id in self.facts and self.sightings.needs_facts(id, beat)
        }
        self.sightings.look(now, self.beats, facts)
        after = self.sightings.fleet(self.fleet)
        told = changes(self.fleet, after)
        self.fleet = after
        return [(one.what, one.lease.id) for one in told]


def test_a_worker_joins_lives_while_its_beats_grow_and_then_expires() -> None:
    story = Story()
    for second in range(10):
        story.beat(lease(), count=second)
        assert story.look(second) == ([(What.JOINED, "w1")] if second == 0 else [])
    assert story.look(9 + EXPIRY_S) == []
    assert story.look(9.1 + EXPIRY_S) == [(What.EXPIRED, "w1")]
    assert story.fleet.expired == {"w1"}
    story.beat(lease(), count=10)
    assert story.look(14) == [(What.JOINED, "w1")]
    assert story.fleet.expired == frozenset()


def test_load_is_news_but_no_change() -> None:
    story = Story()
    story.beat(lease(), 1)
    story.look(0)
    version = story.fleet.version
    assert story.look(0.5) == [] and story.fleet.version == version
    story.beat(lease(load=WorkerLoad(running=5), events=7), 2)
    assert story.look(1) == [] and story.fleet.version == version + 1
    assert story.fleet.workers["w1"].load.running == 5
    assert story.fleet.workers["w1"].events == 7


def test_draining_and_new_facts_are_changes() -> None:
    story = Story()
    story.beat(lease(), 1)
    story.look(0)
    story.beat(lease(draining=True), 2)
    assert story.look(1) == [(What.CHANGED, "w1")]
    story.beat(lease(draining=True, bandwidths={"w2": 250.0}), 3, version=2)
    assert story.look(2) == [(What.CHANGED, "w1")]
    assert story.fleet.workers["w1"].bandwidths == {"w2": 250.0}


def test_a_withdrawn_lease_ends_at_once_and_a_late_beat_does_not_revive_it() -> None:
    story = Story()
    story.beat(lease(), 5)
    story.look(0)
    story.beat(lease(), 6, withdrawn=True)
    assert story.look(0.1) == [(What.LEFT, "w1")]
    story.beat(lease(), 5)
    assert story.look(0.2) == []


def test_a_withdrawn_lease_of_a_stranger_is_nobody() -> None:
    story = Story()
    story.beat(lease(), 6, withdrawn=True)
    assert story.look(0) == [] and not story.fleet.workers


def test_time_without_redis_counts_for_nobody() -> None:
    story = Story()
    story.beat(lease(), 1)
    story.look(0)
    story.sightings.unreadable()
    # Half a minute later it is back, without a lease: the worker has its whole expiry to come back.
    story.beats["w1"] = None
    assert story.look(30) == []
    assert story.look(30 + EXPIRY_S) == []
    assert story.look(30.1 + EXPIRY_S) == [(What.EXPIRED, "w1")]


def test_a_flushed_redis_changes_nothing() -> None:
    story = Story()
    story.beat(lease(), 1)
    story.look(0)
    story.beats["w1"] = None
    assert story.look(0.5) == []
    story.beat(lease(), 2)
    assert story.look(1.0) == []


def test_a_restarted_worker_is_another_and_its_past_is_not_believed() -> None:
    story = Story()
    story.beat(lease(), 50)
    story.look(0)
    story.beat(lease(incarnation="inc-2"), 1)
    assert story.look(1) == [(What.RESTARTED, "w1")]
    story.beat(lease(), 51)
    assert story.look(2) == []
    assert story.fleet.workers["w1"].incarnation == "inc-2"


def test_a_beat_waits_for_the_facts_that_it_speaks_of() -> None:
    story = Story()
    story.beat(lease(), 1)
    known = story.facts.pop("w1")
    assert story.look(0) == []
    # Facts of an earlier run do not count either.
    story.facts["w1"] = Facts(1, lease(incarnation="inc-0"))
    assert story.look(1) == []
    story.facts["w1"] = known
    assert story.look(2) == [(What.JOINED, "w1")]


def test_new_facts_that_are_late_do_not_end_a_lease() -> None:
    story = Story()
    story.beat(lease(), 1)
    story.look(0)
    for second in range(1, 10):
        story.beat(lease(zone="b"), 1 + second, version=2)
        del story.facts["w1"]
        assert story.look(second) == []
    story.beat(lease(zone="b"), 11, version=2)
    assert story.look(10) == [(What.CHANGED, "w1")]


def test_who_is_long_gone_is_forgotten() -> None:
    story = Story()
    story.beat(lease(), 1)
    story.look(0)
    story.beats["w1"] = None
    for now in (1, 4, 5):
        story.look(now)
        assert story.sightings.forget(now) == []
    assert story.fleet.expired == {"w1"}
    story.look(6 + FORGET_S)
    assert story.sightings.forget(6 + FORGET_S) == ["w1"]
    assert story.sightings.known == frozenset()
    assert story.sightings.fleet(story.fleet).expired == frozenset()


def test_changes_are_in_the_order_of_ids() -> None:
    def fleet(*leases: WorkerLease, expired: frozenset[str] = frozenset()) -> Fleet:
        return Fleet({one.id: one for one in leases}, 1, expired)

    before = fleet(lease("a"), lease("b"), lease("c"), lease("d"))
    again = lease("b", "inc-2")
    after = fleet(again, msgspec.structs.replace(lease("d"), events=4), lease("e"), expired=frozenset("a"))
    assert changes(before, after) == (
        Change(What.EXPIRED, lease("a")),
        Change(What.RESTARTED, again),
        Change(What.LEFT, lease("c")),
        Change(What.JOINED, lease("e")),
    )
