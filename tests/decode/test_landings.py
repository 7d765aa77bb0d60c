"""Hand-overs one by one, for whoever asks what came since it last asked."""

from __future__ import annotations

from typing import Any

from baton.decode.landings import KEPT, HandoffMeters, Landing, RecentLandings
from baton.protocol.engine import Path
from baton.telemetry import Metrics
from baton.testing.clock import ManualClock


def landing(request: str) -> Landing:
    return Landing(request, "prefill-0", 96, 1 << 20, 0.0041, 0.052)


def test_each_is_told_once_with_its_age() -> None:
    clock = ManualClock()
    recent = RecentLandings(clock.now)
    assert recent.shown(0) == {"last": 0, "landed": []}
    recent.add(landing("a"))
    clock.advance(2.0)
    recent.add(landing("b"))
    told: Any = recent.shown(0)
    assert [(one["request"], one["age_s"]) for one in told["landed"]] == [("a", 2.0), ("b", 0.0)]
    assert told["landed"][0] == {
        "request": "a", "prefill": "prefill-0", "tokens": 96, "bytes": 1 << 20, "ms": 4.1,
        "waited_ms": 52.0, "age_s": 2.0,
    }  # fmt: skip
    again: Any = recent.shown(told["last"])
    assert again == {"last": 2, "landed": []}


def test_only_the_last_are_kept() -> None:
    recent = RecentLandings()
    for number in range(KEPT + 5):
        recent.add(landing(str(number)))
    told: Any = recent.shown(0)
    assert told["last"] == KEPT + 5 and told["landed"][0]["request"] == "5"


def test_a_path_s_verdict_is_a_gauge_until_the_worker_is_gone() -> None:
    metrics = Metrics()
    meters = HandoffMeters(metrics, lambda: 0, lambda: None)
    for rank, ok in ((0, True), (1, False)):
        meters.met("prefill-0", Path("w", rank, ok, "", 250.0, 200.0, "cuda_ipc/cuda"))
    text = metrics.render().decode()
    assert 'baton_peer_path_ok{peer="prefill-0/0"} 1.0' in text
    assert 'baton_peer_path_ok{peer="prefill-0/1"} 0.0' in text
    meters.parted("w")
    assert "baton_peer_path_ok{" not in metrics.render().decode()
