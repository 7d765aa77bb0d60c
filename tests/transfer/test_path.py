"""What a path should give, and what is said of one that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from baton.transfer.memory import Kind, Region
from baton.transfer.messages import Place
from baton.transfer.path import Measured, expectation, judge, transport_log, transports
from baton.transfer.place import place_of

HOST = Place(host="h1", processes="p1")
GPU = Place(host="h1", processes="p1", gpu="GPU-a", memory="ordinary", nvlink=True)
PEER = replace(GPU, gpu="GPU-b")
FAR_GPU = replace(PEER, host="h2", rdma=True)
MEASURED = Measured(
    connect_s=0.03, latency_s=50e-6, write_gbps=240.0, read_gbps=180.0, descriptor_bytes=2_359_296
)


@pytest.mark.parametrize(
    ("mine", "theirs", "transport", "gbps"),
    [
        (GPU, PEER, "nvlink", 100.0),
        (GPU, replace(GPU, processes="p2"), "same gpu", 100.0),
        (replace(GPU, nvlink=False), PEER, "pcie", 5.0),
        (replace(GPU, rdma=True), FAR_GPU, "rdma", 8.0),
        (GPU, FAR_GPU, "tcp", 0.1),
        (HOST, HOST, "shared memory", 0.5),
        (HOST, replace(HOST, processes="p2"), "tcp", 0.1),
        (HOST, replace(HOST, host="h2"), "tcp", 0.1),
        (replace(HOST, host=""), replace(HOST, host=""), "tcp", 0.1),
    ],
)
def test_the_places_decide_what_is_expected(mine: Place, theirs: Place, transport: str, gbps: float) -> None:
    for a, b in ((mine, theirs), (theirs, mine)):
        expected = expectation(a, b)
        assert (expected.transport, expected.gbps) == (transport, gbps)


def test_a_path_as_fast_as_the_hardware_is_fine() -> None:
    verdict = judge(GPU, PEER, MEASURED, {"write": "cuda_ipc/cuda"})
    assert verdict.ok
    assert "cuda_ipc/cuda (write)" in verdict.message
    assert verdict.transports == {"write": "cuda_ipc/cuda"}


def test_a_silent_fall_back_is_said_loudly_with_what_to_do() -> None:
    pods = judge(GPU, replace(PEER, processes="p2"), replace(MEASURED, write_gbps=0.5), {})
    assert not pods.ok
    assert "SLOW PATH" in pods.message and "imex-channels" in pods.message
    assert pods.transport == "tcp instead of nvlink", "as its speed tells"
    assert "over tcp instead of nvlink" in pods.message
    fabric = replace(PEER, processes="p2", memory="fabric")
    assert "device files" in judge(GPU, fabric, replace(MEASURED, read_gbps=0.5), {}).message


def test_small_pages_are_not_blamed_on_the_path() -> None:
    small = replace(MEASURED, write_gbps=9.0, read_gbps=9.0, descriptor_bytes=65536)
    assert judge(GPU, PEER, small, {}).ok
    slow = judge(GPU, PEER, replace(small, write_gbps=0.5), {})
    assert not slow.ok and slow.transport == "less than nvlink", "which of a small page's costs is not told"


def test_what_the_transport_says_of_itself_goes_before_what_its_speed_tells() -> None:
    slow = replace(MEASURED, write_gbps=0.5)
    assert judge(GPU, PEER, slow, {"write": "tcp/eth0", "read": "tcp/eth0"}).transport == "tcp/eth0"
    assert judge(GPU, PEER, MEASURED, {}).transport == "nvlink"


LOG = """
[1795254200.509688] [vm:9119 :0]   +--------+-------------+----------------------------------+
[1795254200.509688] [vm:9119 :0]   | ab12 self cfg#0                                           |
[1795254200.509688] [vm:9119 :0]   | remote memory write by ucp_put* from host memory to host |
[1795254200.509688] [vm:9119 :0]   | 0..inf | zero-copy   | self/memory                       |
[1795254201.509688] [vm:9119 :0]   | ab12 intra-node cfg#1                                     |
[1795254201.509688] [vm:9119 :0]   | active message by ucp_am_send*(egr) from host memory      |
[1795254201.509688] [vm:9119 :0]   |   0..8184 | short              | tcp/lo                   |
[1795254201.509688] [vm:9119 :0]   | 8185..inf | multi-frag copy-in | tcp/lo                   |
[1795254202.509688] [vm:9119 :0]   | ab12 intra-node cfg#1                                     |
[1795254202.509688] [vm:9119 :0]   | remote memory write by ucp_put*(multi) from cuda to cuda  |
[1795254202.509688] [vm:9119 :0]   |   Range   | Description |       Config                    |
[1795254202.509688] [vm:9119 :0]   |   0..2040 | short       | tcp/lo                          |
[1795254202.509688] [vm:9119 :0]   | 2041..inf | zero-copy   | cuda_ipc/cuda                   |
[1795254203.509688] [vm:9119 :0]   | ab12 inter-node cfg#2                                     |
[1795254203.509688] [vm:9119 :0]   | remote memory read by ucp_get*(multi) into cuda from cuda |
[1795254203.509688] [vm:9119 :0]   |   8K..inf | multi-frag  | rc_mlx5/mlx5_0:1                |
"""


def test_the_transports_are_read_from_what_ucx_writes_down() -> None:
    assert transports(LOG) == {"write": "cuda_ipc/cuda", "read": "rc_mlx5/mlx5_0:1"}
    assert transports("") == {}
    assert transport_log("/tmp/x")["UCX_LOG_FILE"] == "/tmp/x"


def test_a_place_is_read_from_the_machine(tmp_path: Path) -> None:
    region = Region(address=0, bytes=1, kind=Kind.HOST)
    place = place_of(region)
    assert place.host and place.processes.startswith("pid:[")
    assert (place.gpu, place.memory, place.nvlink) == ("", "host", False)
    assert place_of(region) == place
    nothing = place_of(region, tmp_path)
    assert (nothing.host, nothing.processes, nothing.rdma) == ("", "", False)
    (tmp_path / "sys/class/infiniband/mlx5_0").mkdir(parents=True)
    assert place_of(region, tmp_path).rdma
