"""Which way sums go, decided from measurements, and what peer.cu is told of a sum's size."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import pytest
from tests.parallel import rank_work

from baton.parallel.peer import _BLOCKS, Program, _sum_of, share_of
from baton.parallel.quickest import SIZES, Timing, faster_up_to, slowest
from baton.testing.ranks import run_ranks


@pytest.mark.parametrize(
    ("peer", "most"),
    [
        ((1, 2, 3, 4), 4000),
        ((1, 2, 3, 9), 3000),
        ((1, 9, 3, 4), 1000),
        ((5, 2, 3, 4), 0),
        ((1, 5, 5, 5), 1000),
    ],
)
def test_peer_memory_serves_up_to_its_first_defeat(peer: tuple[float, ...], most: int) -> None:
    """NCCL takes 5 us for any size; what wins again beyond a size that lost is noise."""
    timings = [Timing(1000 * (i + 1), 5.0, took) for i, took in enumerate(peer)]
    for shuffled in itertools.permutations(timings):
        assert faster_up_to(shuffled) == most
    assert faster_up_to([]) == 0


def test_ranks_decide_alike_on_what_the_slowest_measured() -> None:
    first = [Timing(8, 5.0, 1.0), Timing(16, 5.0, 4.0)]
    second = [Timing(8, 6.0, 2.0), Timing(16, 4.0, 7.0)]
    assert slowest([first, second]) == slowest([second, first]) == [Timing(8, 6.0, 2.0), Timing(16, 5.0, 7.0)]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_every_size_that_is_taken_fits_the_compartments(ranks: int) -> None:
    program = Program(ranks, (9, 0))
    assert program.limit % 16 == 0 and program.limit >= 1 << 20
    assert any(size == program.limit for size in SIZES), "the largest sum is measured"
    units = program.limit // 16
    for count in {*range(1, 5000, 7), units - 1, units}:
        share = share_of(count)
        blocks = -(-count // share)
        assert share <= program.most and blocks <= _BLOCKS
        assert (blocks - 1) * share < count <= blocks * share, "no block without work"


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_argument_lies_as_the_kernel_reads_it(ranks: int) -> None:
    """8-byte pointers in a row, then the numbers: peer.cu's Sum."""
    made = _sum_of(ranks)
    offsets = {name: getattr(made, name).offset for name, *_ in made._fields_}
    assert offsets["there"] == 24 and offsets["failed"] == 24 + 8 * ranks
    assert (offsets["count"], ctypes.sizeof(made)) == (40 + 8 * ranks, 56 + 8 * ranks)


def test_what_one_rank_cannot_none_does(tmp_path: Path) -> None:
    """And each can say why, and go on together."""
    found = run_ranks(3, rank_work.agreed, meeting=tmp_path / "meeting")
    for rank, (agreed, refused) in enumerate(found):
        assert agreed == ["from 0", "from 1", "from 2"], rank
        assert refused == "rank 1: no such GPU", rank
