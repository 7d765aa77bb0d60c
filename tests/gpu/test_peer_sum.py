"""Sums through peer memory between two real GPUs: the right bits, the same on both, in graphs and out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from tests.gpu import peer_work

from baton.testing.ranks import run_ranks

pytestmark = [pytest.mark.gpu, pytest.mark.multi_gpu]


@pytest.fixture(autouse=True)
def two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    return tmp_path / "meeting"


def test_every_size_and_type_is_exact_and_alike_on_both(meeting: Path) -> None:
    found = run_ranks(2, peer_work.each_size, meeting=meeting, device="cuda", all_reduce="peer")
    assert found[0] == found[1]


def test_odd_tensors_are_summed_all_the_same(meeting: Path) -> None:
    found = run_ranks(2, peer_work.odd_ones, meeting=meeting, device="cuda", all_reduce="peer")
    assert found[0] == found[1]


def test_a_graph_of_sums_replayed_a_thousand_times(meeting: Path) -> None:
    found = run_ranks(2, peer_work.replays, 1000, meeting=meeting, device="cuda", all_reduce="peer")
    assert found[0] == found[1]


def test_sums_among_kernels_that_begin_early(meeting: Path) -> None:
    found = run_ranks(2, peer_work.among_kernels, 20, 100, meeting=meeting, device="cuda", all_reduce="peer")
    assert found[0] == found[1]


def test_the_faster_way_is_chosen_alike(meeting: Path) -> None:
    """Whatever was measured, the ranks have decided the same."""
    found = run_ranks(2, peer_work.chosen, meeting=meeting, device="cuda")
    assert found[0] == found[1]
    said, timings = found[0]
    assert timings, "measured"
    assert said == "nccl" or said.startswith("peer up to ")


def test_nccl_alone_measures_nothing(meeting: Path) -> None:
    found = run_ranks(2, peer_work.chosen, meeting=meeting, device="cuda", all_reduce="nccl")
    assert found == [("nccl", [])] * 2


def test_a_rank_that_never_comes_is_not_waited_for_without_end(meeting: Path, tmp_path: Path) -> None:
    error, other = run_ranks(
        2, peer_work.left_alone, tmp_path / "over", meeting=meeting, deadline_s=3.0, device="cuda",
        all_reduce="peer",
    )  # fmt: skip
    assert other == ""
    assert error.startswith("ended: ")
