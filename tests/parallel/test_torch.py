"""Collectives between real processes over Gloo, and the deadlines that end them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tests.parallel import rank_work

from baton.core.errors import DeadlineExceeded, InvalidSetting
from baton.parallel import SingleRank, TorchRanks, join_ranks
from baton.testing.ranks import run_ranks

CPU = torch.device("cpu")


def test_collectives_give_every_rank_the_same(tmp_path: Path) -> None:
    size = 3
    found = run_ranks(size, rank_work.collectives, meeting=tmp_path / "meeting")
    each = [torch.arange(6.0).view(2, 3) + 10 * rank for rank in range(size)]
    wanted = {
        "sum": sum(each),
        "narrow sum": torch.stack(each).sum(0).bfloat16(),
        "join": torch.cat(each, dim=1),
        "share": torch.full((3,), 5),
        "strided join": torch.cat([x.t() for x in each], dim=1),
    }
    for answer in found:
        assert answer.keys() == wanted.keys()
        for name, value in answer.items():
            assert torch.equal(value, wanted[name]), name


def test_a_stuck_rank_ends_the_wait_of_the_others(tmp_path: Path) -> None:
    error, other = run_ranks(
        2, rank_work.left_alone, tmp_path / "over", meeting=tmp_path / "meeting", deadline_s=1.0
    )
    assert other == ""
    assert "rank 0 of 2: sum did not complete" in error


def test_a_rank_that_nobody_meets_gives_up(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="rank 1 of 2 did not meet"):
        TorchRanks(1, 2, f"file://{tmp_path / 'meeting'}", CPU, join_deadline_s=0.3)
    assert time.monotonic() - began < 5


def test_one_rank_needs_nobody() -> None:
    ranks = join_ranks(0, 1, "", CPU)
    assert isinstance(ranks, SingleRank)
    x = torch.ones(2, 3)
    assert ranks.sum(x) is ranks.join(x) is ranks.share(x) is x


@pytest.mark.parametrize(
    ("rank", "size", "rendezvous"),
    [(2, 2, "file:///m"), (1, 1, ""), (0, 2, "/a/path"), (0, 2, "tcp://host"), (0, 2, "udp://h:1")],
)
def test_a_wrong_address_or_rank_is_refused(rank: int, size: int, rendezvous: str) -> None:
    with pytest.raises(InvalidSetting):
        join_ranks(rank, size, rendezvous, CPU)
