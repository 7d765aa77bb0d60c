"""The bytes of prefix events: the same changes in the same order, whatever the sizes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import ProtocolMismatch
from baton.state.events import (
    count,
    pack,
    read_entry,
    read_snapshot,
    snapshot_sequence,
    write_entries,
    write_snapshot,
)

packs = st.lists(st.binary(min_size=16, max_size=16), max_size=12).map(b"".join)


@given(st.lists(st.tuples(packs, packs), max_size=12), st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_entries_hold_every_change_in_order_and_no_more_than_they_may(
    frames: list[tuple[bytes, bytes]], limit: int
) -> None:
    def steps(some: list[tuple[bytes, bytes]]) -> list[tuple[str, bytes]]:
        return [
            (what, one[at : at + 16])
            for evicted, stored in some
            for what, one in (("evicted", evicted), ("stored", stored))
            for at in range(0, len(one), 16)
        ]

    entries = list(write_entries(frames, limit))
    read = [read_entry(data) for data, _ in entries]
    assert steps([frame for one in read for frame in one]) == steps(frames)
    for (_, told), held in zip(entries, read, strict=True):
        assert told == sum(map(count, held)) <= limit
    # Small frames share entries: two neighbours never fit into one.
    sizes = [told for _, told in entries]
    assert all(a + b > limit for a, b in itertools.pairwise(sizes))


def test_small_frames_share_an_entry() -> None:
    frames = [(b"", bytes(16))] * 10
    assert len(list(write_entries(frames, 10))) == 1
    assert len(list(write_entries(frames, 9))) == 2


def test_an_entry_of_nothing_is_nothing() -> None:
    assert list(write_entries([])) == []
    assert read_entry(b"") == []


@pytest.mark.parametrize("cut", [1, 7, 8, 23])
def test_an_entry_that_was_cut_is_a_mismatch(cut: int) -> None:
    [(data, _)] = write_entries([(bytes(16), bytes(32))])
    with pytest.raises(ProtocolMismatch):
        read_entry(data[:-cut])


def test_a_snapshot_is_a_number_and_what_was_held() -> None:
    data = write_snapshot(2**40, bytes(48))
    assert read_snapshot(data) == (2**40, bytes(48))
    assert snapshot_sequence(data[:8]) == 2**40
    assert snapshot_sequence(b"") == -1
    for wrong in (b"", data[:7], data[:-1]):
        with pytest.raises(ProtocolMismatch):
            read_snapshot(wrong)


def test_an_identity_has_sixteen_bytes() -> None:
    assert pack([bytes(16), bytes(32)]) == bytes(48)
    with pytest.raises(ValueError, match="whole number"):
        pack([bytes(15)])
