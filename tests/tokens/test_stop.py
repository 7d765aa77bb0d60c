from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baton.tokens.stop import StopStrings

# Two letters make overlaps, shared beginnings and stops within stops common.
stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
pieces = st.lists(st.text("abc", max_size=6), max_size=12)


def naive(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """Read the whole text character by character; the first stop that is complete, the longest of those."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(stops, pieces, st.booleans())
@example(["b", "abc"], ["ab", "c"], False)
@example(["aab", "ab"], ["a", "a", "a", "b"], False)
@settings(max_examples=400)
def test_pieces_are_cut_where_the_whole_text_would_be(
    stops: list[str], pieces: list[str], include: bool
) -> None:
    stream = StopStrings(stops, include)
    out = ""
    text = ""
    for piece in pieces:
        text += piece
        out += stream.push(piece)
        expected, stop = naive(text, stops, include)
        assert stream.matched == stop
        if stop is not None:
            assert out == expected
        else:
            # Held back: exactly the longest tail that may become a stop string, never more.
            tails = [text[at:] for at in range(len(text) + 1)]
            hold = next(t for t in tails if not t or any(len(t) < len(s) and s.startswith(t) for s in stops))
            assert out + hold == text
            assert stream.held == hold
    out += stream.finish()
    assert (out, stream.matched) == naive(text, stops, include)
    assert stream.held == ""


@given(stops, st.text("abc", max_size=40), st.randoms())
def test_borders_of_pieces_change_nothing(stops: list[str], text: str, random: object) -> None:
    one = StopStrings(stops)
    at_once = one.push(text) + one.finish()
    many = StopStrings(stops)
    singly = "".join(map(many.push, text)) + many.finish()
    assert (singly, many.matched) == (at_once, one.matched)


def test_without_stop_strings_everything_passes() -> None:
    stream = StopStrings([])
    assert [stream.push("a"), stream.push("b"), stream.finish()] == ["a", "b", ""]
    assert stream.matched is None


@pytest.mark.parametrize(("include", "expected"), [(False, "Paris"), (True, "Paris\n\nUser:")])
def test_a_stop_over_several_pieces_is_cut_or_kept(include: bool, expected: str) -> None:
    stream = StopStrings(["\n\nUser:", "###"], include)
    out = [stream.push(piece) for piece in ["Par", "is\n", "\nUs", "er: hello", " again"]]
    assert "".join(out) == expected
    assert stream.matched == "\n\nUser:"
    assert stream.push("more") == stream.finish() == ""
    assert out[1] == "is"


def test_what_was_held_back_in_vain_is_given() -> None:
    stream = StopStrings(["\n\nUser:"])
    assert [stream.push(p) for p in ["a\n", "\nUse", "ful"]] == ["a", "", "\n\nUseful"]
    assert stream.push("\n") == ""
    assert stream.finish() == "\n"


def test_skipped_text_holds_no_stop_string_nor_the_beginning_of_one() -> None:
    stream = StopStrings(["ab"])
    assert [stream.skip("ab"), stream.skip("a"), stream.push("b"), stream.push("a")] == ["ab", "a", "b", ""]
    assert stream.skip("b") == "ab"
    assert (stream.push("xaby"), stream.matched) == ("x", "ab")
    assert stream.skip("more") == ""


def test_long_stop_strings_and_texts_cost_no_quadratic_time() -> None:
    stream = StopStrings(["a" * 4000 + "b" for _ in range(16)] + ["a" * n + "c" for n in range(3900, 3915)])
    out = sum(len(stream.push("a")) for _ in range(6000))
    assert out == 2000
    assert stream.push("b") == ""
    assert stream.matched == "a" * 4000 + "b"
