"""What `status`, `top` and `doctor` read of a router and of pods, and how they show it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import httpx
import msgspec
import pytest
from tests.cli.scripted import Answer, Scripted

from baton.cli.__main__ import main
from baton.cli.fleet.figures import Figures, together
from baton.cli.fleet.read import Picture, Sight, look
from baton.cli.fleet.table import lines
from baton.core.errors import PeerLost
from baton.state.lease import WorkerLease, WorkerLoad

METRICS = """\
# TYPE baton_tokens_total counter
baton_tokens_total{kind="prompt"} 200
baton_tokens_total{kind="cached"} 50
baton_tokens_total{kind="generated"} 1000
# TYPE baton_requests_total counter
baton_requests_total{endpoint="chat",outcome="completed"} 7
baton_requests_total{endpoint="chat",outcome="failed"} 1
# TYPE baton_ttft_seconds histogram
baton_ttft_seconds_bucket{le="0.01"} 0
baton_ttft_seconds_bucket{le="0.02"} 10
baton_ttft_seconds_bucket{le="+Inf"} 10
baton_ttft_seconds_sum 0.15
baton_ttft_seconds_count 10
"""


def lease(id: str = "decode-0", **changes: object) -> WorkerLease:
    base = WorkerLease(
        id=id, incarnation="inc-1", role="decode", http="", page_size=16, pages=100, model="tiny",
        model_fingerprint="m", layout_fingerprint="m/16", page_bytes=1 << 20,
        load=WorkerLoad(running=3, waiting=2, pages_free=40, pages_evictable=10, decode_step_ms=7.5),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def pod(text: str = METRICS, given: WorkerLease | None = None, status: int = 200, **told: object) -> Scripted:
    told = {"ready": status == 200, "role": "decode", **told}
    return Scripted(
        {
            "/readyz": [Answer(json.dumps(told).encode(), status)],
            "/lease": [Answer(msgspec.json.encode(given or lease()))],
            "/metrics": [Answer(text.encode())],
        }
    )


@pytest.fixture
def one() -> Iterator[Scripted]:
    with pod() as one:
        yield one


def test_metrics_on_a_port_of_their_own_are_found() -> None:
    with (
        Scripted({"/metrics": [Answer(METRICS.encode())]}) as second,
        pod("", metrics_port=httpx.URL(second.url).port) as first,
    ):
        (seen,) = look(first.url, []).pods
    assert seen.figures.total("baton_tokens_total", kind="cached") == 50


def test_figures_are_found_by_name_and_label() -> None:
    figures = Figures.read(METRICS)
    assert figures.total("baton_tokens_total") == 1250
    assert figures.total("baton_tokens_total", kind="cached") == 50
    assert figures.total("absent") == 0 and not figures.has("absent")
    assert together([figures, figures]).total("baton_requests_total", outcome="completed") == 14


def test_quantiles_lie_inside_their_bucket() -> None:
    figures = Figures.read(METRICS)
    assert figures.quantile("baton_ttft_seconds", 0.5) == pytest.approx(0.015)
    assert figures.quantile("baton_ttft_seconds", 1.0) == pytest.approx(0.02)
    assert figures.quantile("absent", 0.5) is None
    beyond = Figures.read(
        '# TYPE h histogram\nh_bucket{le="1"} 0\nh_bucket{le="+Inf"} 4\nh_count 4\nh_sum 9\n'
    )
    assert beyond.quantile("h", 0.5) == 1.0, "no more is known than that it is above the last bound"


def test_the_difference_of_two_looks_survives_a_restart() -> None:
    before = Figures.read("a_total 10\nb_total 3\n")
    after = Figures.read("a_total 12\nb_total 1\nc_total 5\n")
    grown = after.since(before)
    assert [grown.total(name) for name in ("a_total", "b_total", "c_total")] == [2, 1, 5]


def test_a_process_that_was_silent_for_a_look_has_not_done_all_its_work_since() -> None:
    def read(**counts: int) -> Figures:
        told = [f'a_total{{process="{name[1:]}"}} {count}' for name, count in counts.items()]
        return Figures.read("\n".join([*told, ""]))

    looks = [read(p0=10, p1=500), read(p0=12), read(p0=15, p1=501), read(p0=15, p1=505)]
    grown = [after.since(before).total("a_total") for before, after in pairwise(looks)]
    assert grown == [2, 3, 4]


def test_a_single_pod_is_looked_at_as_it_is(one: Scripted) -> None:
    picture = look(one.url, [])
    assert picture.router is None and [each.name for each in picture.pods] == ["decode-0"]
    assert picture.pods[0].state == "ready" and picture.troubles == []
    assert picture.figures.total("baton_tokens_total", kind="generated") == 1000


def test_a_router_tells_of_pods_that_cannot_be_reached_from_here(one: Scripted) -> None:
    leases = [
        msgspec.to_builtins(lease("decode-0", http=one.url)),
        msgspec.to_builtins(lease("prefill-0", role="prefill", http="http://127.0.0.1:9", draining=True)),
        {"id": "from a later release"},
    ]
    fleet = Answer(json.dumps({"workers": leases}).encode())
    ready = Answer(b'{"ready": true}')
    with Scripted({"/readyz": [ready], "/debug/fleet": [fleet], "/metrics": [Answer(b"")]}) as router:
        picture = look(router.url, [])
    assert picture.router is not None and picture.router.state == "ready"
    assert {each.name: each.state for each in picture.pods} == {"decode-0": "ready", "prefill-0": "draining"}
    assert picture.figures.total("baton_tokens_total") == 1250, "the pods' own where the router has none"


def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(PeerLost, match=r"nothing answers on http://127\.0\.0\.1:9"):
        look("127.0.0.1:9", [])


def test_pods_that_are_not_there_are_shown_as_such(one: Scripted) -> None:
    picture = look("", [one.url, "127.0.0.1:9"])
    assert [each.state for each in picture.pods] == ["ready", "unreachable"]
    assert len(picture.troubles) == 1 and picture.troubles[0].startswith("127.0.0.1:9: ")


def test_a_picture_in_lines() -> None:
    seen = Sight(address="http://a", ready=True, lease=lease(), figures=Figures.read(METRICS))
    text = "\n".join(lines(Picture(at=10.0, router=None, pods=(seen,)), None, paint=False))
    assert "since start: 7 completed, 1 failed; 1,000 tokens; 25% of prompt tokens from cache" in text
    assert "TTFT 15.0 / 19.9 ms" in text
    row = next(line for line in text.splitlines() if line.startswith("decode-0"))
    assert row.split() == ["decode-0", "decode", "ready", "3", "2", "█████░░░░░", "50%", "10%", "-", "7.5"]
    later = Picture(at=12.0, router=None, pods=(seen,))
    assert (
        "last 2 s: no request; 0 tokens (0/s)"
        in lines(later, Picture(at=10.0, router=None, pods=(seen,)), False)[0]
    )


def test_status_for_people_and_for_scripts(one: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", one.url]) == 0
    assert "decode-0" in capsys.readouterr().out
    assert main(["status", "--pods", one.url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pods"][0]["lease"]["load"]["running"] == 3 and told["troubles"] == []


def test_status_fails_while_a_pod_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with pod(status=503, message="loading weights, 40% done") as one:
        assert main(["status", "--url", one.url]) == 1
    assert "! decode-0: loading weights, 40% done" in capsys.readouterr().out


def test_top_without_a_terminal_prints_pictures(one: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--url", one.url, "--every", "0.01", "--count", "2"]) == 0
    assert capsys.readouterr().out.count("baton top  ") == 2
    assert main(["top", "--url", one.url, "--every", "0"]) == 2
