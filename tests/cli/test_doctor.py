"""`baton doctor`: what it finds wrong, and that it finds nothing wrong where nothing is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.cli.test_fleet import lease

from baton.cli.__main__ import main
from baton.cli.doctor.cluster import examine_pods, floor_of
from baton.cli.doctor.finding import Finding, Grade
from baton.cli.doctor.machine import gpu_devices, memory, rdma
from baton.cli.doctor.transfer import _judged, tried
from baton.cli.fleet.figures import Figures
from baton.cli.fleet.read import Picture, Sight
from baton.transfer import Measured, Place


def test_this_machine_is_fit_and_its_processes_reach_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^(ok|note)  +transfer between processes: .* write [\d.]+ GB/s", out, re.MULTILINE)
    assert out.endswith("\nnothing is wrong\n")


def test_a_transfer_that_falls_back_to_tcp_is_called_wrong() -> None:
    before = os.environ.get("UCX_TLS")
    os.environ["UCX_TLS"] = "tcp"  # what UCX does by itself where the faster way is closed
    try:
        found = tried("transfer", "cpu", "cpu")
    finally:
        if before is None:
            del os.environ["UCX_TLS"]
        else:
            os.environ["UCX_TLS"] = before
    assert found.grade is Grade.WRONG and "shared memory" in found.seen and "tcp" in found.seen.lower()
    assert "ptrace" in found.advice


@pytest.mark.parametrize(
    ("gbps", "used", "load", "grade"),
    [
        (12.0, "cma/memory", 1.0, Grade.FINE),
        (0.2, "cma/memory", 1.0, Grade.WRONG),
        (0.2, "cma/memory", 9.0, Grade.NOTE),
        (0.2, "tcp/lo", 9.0, Grade.WRONG),
        (2.0, "tcp/lo", 1.0, Grade.WRONG),
    ],
)
def test_a_busy_machine_is_no_broken_path_and_tcp_is_never_fine(
    gbps: float, used: str, load: float, grade: Grade
) -> None:
    place = Place(host="h", processes="p")
    measured = Measured(
        connect_s=0.03, latency_s=2e-5, write_gbps=gbps, read_gbps=gbps, descriptor_bytes=2 << 20
    )
    found = _judged("transfer", (place, place, measured, {"write": used}), load)
    assert found.grade is grade and f"{gbps:.2f} GB/s" in found.seen


def test_a_transfer_that_cannot_be_made_is_a_finding() -> None:
    found = tried("transfer", "cpu", "toaster")
    assert found.grade is Grade.WRONG and "must be cpu or cuda:N" in found.seen


def found_in(*pods: Sight) -> dict[str, Finding]:
    picture = Picture(at=0.0, router=None, pods=pods)
    return {finding.what: finding for finding in examine_pods(picture)}


def decode(paths: str = "", **changes: object) -> Sight:
    return Sight(address="http://d", ready=True, lease=lease(**changes), figures=Figures.read(paths))


def path(gbps: float, transport: str, ok: int | None = None) -> str:
    rate = "baton_peer_bandwidth_bytes_per_second"
    labels = f'peer="p/0",transport="{transport}"'
    text = f'{rate}{{{labels},direction="write"}} {gbps}e9\n{rate}{{{labels},direction="read"}} 300e9\n'
    return text if ok is None else f'{text}baton_peer_path_ok{{peer="p/0"}} {ok}\n'


PREFILL = Sight(address="http://p", ready=True, lease=lease("prefill-0", role="prefill"))


@pytest.mark.parametrize(
    ("metrics", "grade", "word"),
    [
        (path(250, "cuda_ipc/cuda"), Grade.FINE, "250.00 GB/s over cuda_ipc/cuda"),
        (path(0.5, "cuda_ipc/cuda"), Grade.WRONG, "SLOW PATH: 0.50 GB/s"),
        (path(0.5, "tcp/eth0"), Grade.NOTE, "wrong with them"),
        (path(0.5, "tcp/eth0", ok=0), Grade.WRONG, "the hardware allows more"),
        (path(0.5, "tcp/eth0", ok=1), Grade.FINE, "over tcp/eth0"),
        (path(0.01, "tcp/eth0"), Grade.WRONG, "0.10 is the least"),
    ],
)
def test_each_path_is_judged_by_what_its_transport_should_give(metrics: str, grade: Grade, word: str) -> None:
    found = found_in(decode(metrics), PREFILL)["path decode-0 ↔ p/0"]
    assert found.grade is grade and word in found.seen
    assert bool(found.advice) == (grade is not Grade.FINE)


def test_small_pages_are_not_blamed_on_the_path() -> None:
    assert floor_of("nvlink", 1 << 18) == 25.0 and floor_of("nvlink", 0) == 100.0
    assert floor_of("carrier pigeon", 0) is None


def test_pods_that_cannot_hand_over_to_each_other_are_told() -> None:
    stranger = Sight(
        address="http://p", ready=True, lease=lease("prefill-0", role="prefill", layout_fingerprint="x/16")
    )
    found = list(examine_pods(Picture(at=0.0, router=None, pods=(decode(), stranger))))
    assert [one.grade for one in found if one.what == "layouts"] == [Grade.WRONG, Grade.WRONG]
    assert not any(one.what == "layouts" for one in found_in(decode(), PREFILL).values())


def test_pods_that_are_not_ready_and_not_met_are_told() -> None:
    lost = Sight(address="http://d", reachable=False, detail="connection refused")
    found = found_in(lost, PREFILL)
    assert found["? d"].grade is Grade.WRONG and "connection refused" in found["? d"].seen
    assert found["paths"].grade is Grade.NOTE and "cannot be asked from here" in found["paths"].seen
    asked = found_in(decode("# TYPE baton_running gauge\nbaton_running 1\n"), PREFILL)
    assert "has met yet" in asked["paths"].seen


def test_a_gpu_host_without_the_channel_device_is_told(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "null"):
        (tmp_path / "dev" / name).touch()
    bare = list(gpu_devices(tmp_path))
    assert bare[0].seen == "2 device files: nvidia0, nvidia1" and bare[1].grade is Grade.NOTE
    channel = tmp_path / "dev" / "nvidia-caps-imex-channels"
    channel.mkdir()
    (channel / "channel0").touch()
    assert list(gpu_devices(tmp_path))[1].grade is Grade.FINE


def test_little_memory_and_rdma_devices_are_seen(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  1048576 kB\n")
    assert memory(tmp_path).grade is Grade.WRONG and memory(tmp_path).seen == "1.0 GiB free"
    assert next(iter(rdma(tmp_path))).grade is Grade.NOTE
    (tmp_path / "sys" / "class" / "infiniband" / "mlx5_0").mkdir(parents=True)
    assert next(iter(rdma(tmp_path))).seen == "mlx5_0"
