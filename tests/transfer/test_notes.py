"""Notes on the wire and the count of what has landed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.transfer.notes import Arrivals, Note, NoteKind, decode, encode

notes = st.builds(
    Note,
    st.sampled_from(NoteKind),
    st.text(min_size=1, max_size=60),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


@given(notes)
def test_a_note_comes_back_from_its_bytes(note: Note) -> None:
    assert decode(encode(note)) == note


def landed(chunk: int, last: bool = False, rank: int = 0, attempt: str = "a") -> Note:
    return Note(NoteKind.LANDED, attempt, rank, chunk, last)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is no note",
        encode(landed(1))[:12],
        b"bat3" + encode(landed(1))[4:],
        b"bat2\x07" + encode(landed(1))[5:],
        b"bat2\x01\x02" + encode(landed(1))[6:],
        encode(landed(1)) + b"\xff",
        encode(landed(1)) + b"x" * 300,
    ],
)
def test_what_is_not_a_note_of_exactly_this_form_is_none(data: bytes) -> None:
    assert decode(data) is None


@given(st.integers(1, 12), st.integers(1, 3), st.randoms())
def test_complete_when_and_only_when_every_chunk_of_every_rank_is_there(
    chunks: int, ranks: int, shuffle: random.Random
) -> None:
    sources = {f"i{rank}": rank for rank in range(ranks)}
    sent = [(name, landed(c, c == chunks - 1, rank)) for name, rank in sources.items() for c in range(chunks)]
    shuffle.shuffle(sent)
    arrivals = Arrivals(sources)
    for name, note in sent:
        assert not arrivals.complete
        assert arrivals.missing()
        assert arrivals.add(name, note)
        assert not arrivals.add(name, note), "the same chunk counted twice"
    assert arrivals.complete
    assert arrivals.missing() == ()


def test_notes_of_others_and_impossible_ones_do_not_count() -> None:
    arrivals = Arrivals({"p0": 0, "p1": 1})
    assert not arrivals.add("stranger", landed(0))
    assert not arrivals.add("p0", landed(0, rank=1)), "another rank's number"
    assert arrivals.add("p0", landed(2))
    assert not arrivals.add("p0", landed(1, last=True)), "the last chunk before one that is there"
    assert arrivals.add("p0", landed(3, last=True))
    assert not arrivals.add("p0", landed(4)), "a chunk after the last"
    assert not arrivals.add("p0", landed(5, last=True)), "a second last chunk"
    assert arrivals.missing() == (0, 1)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 3), st.randoms())
def test_pages_are_there_when_every_rank_has_sent_all_up_to_them(
    sizes: list[int], ranks: int, shuffle: random.Random
) -> None:
    sources = {f"i{rank}": rank for rank in range(ranks)}
    through = [sum(sizes[: chunk + 1]) for chunk in range(len(sizes))]
    sent = [(name, rank, chunk) for name, rank in sources.items() for chunk in range(len(sizes))]
    shuffle.shuffle(sent)
    arrivals = Arrivals(sources)
    seen: dict[int, set[int]] = {rank: set() for rank in sources.values()}
    for name, rank, chunk in sent:
        last = chunk == len(sizes) - 1
        assert arrivals.add(name, Note(NoteKind.LANDED, "a", rank, chunk, last, through[chunk]))
        seen[rank].add(chunk)
        whole = [next(i for i in range(len(sizes) + 1) if i not in chunks) for chunks in seen.values()]
        assert arrivals.pages == min(sum(sizes[:count]) for count in whole)
    assert arrivals.complete and arrivals.pages == sum(sizes)
