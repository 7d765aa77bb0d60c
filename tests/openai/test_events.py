from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.core.errors import Failed
from baton.openai import DONE, Delivered, EventRelay, sse

tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4)
# (choice, its new tokens) in the order of the stream.
streams = st.lists(st.tuples(st.integers(0, 2), tokens), max_size=12)


def events_of(stream: list[tuple[int, list[int]]]) -> tuple[list[bytes], dict[int, list[int]]]:
    events, sent = [], dict[int, list[int]]()
    for choice, ids in stream:
        before = sent.setdefault(choice, [])
        events.append(sse(b'{"text":"id: 0.0:7\\n\\nx"}', ids, choice, len(before)))
        before += ids
    return events, sent


@given(streams, st.data())
def test_whole_events_pass_however_the_bytes_are_cut(
    stream: list[tuple[int, list[int]]], data: st.DataObject
) -> None:
    events, sent = events_of(stream)
    whole = b"".join(events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    relay = EventRelay()
    passed = b""
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        passed += relay.feed(whole[start:end])
        assert passed == b"" or passed.endswith(b"\n\n")
        count = passed.count(b"\n\n")
        assert passed == b"".join(events[:count])
        assert relay.relayed == len(passed)
    assert passed == whole
    assert {choice: one.token_ids for choice, one in relay.delivered().items()} == sent


def test_only_events_that_went_by_whole_were_delivered() -> None:
    relay = EventRelay()
    first, second = sse(b"{}", [1, 2]), sse(b"{}", [3], start=2)
    assert relay.feed(first + second[:-1]) == first
    assert relay.delivered() == {0: Delivered([1, 2])}
    assert relay.feed(second[-1:]) == second
    assert relay.delivered() == {0: Delivered([1, 2, 3])}


def test_the_end_of_a_choice_is_seen() -> None:
    relay = EventRelay()
    relay.feed(sse(b"{}", [1], 0, 0) + sse(b"{}", [2], 1, 0, final=True) + sse(b"{}", [], 2, 0, final=True))
    assert relay.delivered() == {0: Delivered([1]), 1: Delivered([2], True), 2: Delivered([], True)}
    assert not relay.done
    relay.feed(sse(b"{}") + DONE)
    assert relay.done


@pytest.mark.parametrize(
    "second", [sse(b"{}", [3], start=1), sse(b"{}", [3], start=3), sse(b"{}", [3], start=0)]
)
def test_tokens_that_do_not_follow_are_an_error(second: bytes) -> None:
    relay = EventRelay()
    relay.feed(sse(b"{}", [1, 2]) + second)
    with pytest.raises(Failed, match="do not follow"):
        relay.delivered()


def test_the_first_event_of_a_prompt_says_what_was_cached() -> None:
    relay = EventRelay()
    assert relay.cached is None
    relay.feed(
        sse(b"{}", [1], 0, 0, cached="+16") + sse(b"{}", [2, 3], 2, 0, cached="+48") + sse(b"{}", [4], 1)
    )
    assert relay.cached == 64 and relay.tokens == 4
    assert relay.delivered() == {0: Delivered([1]), 2: Delivered([2, 3]), 1: Delivered([4])}
    relay.feed(sse(b"{}", [5], 0, 1, cached="+32"))
    assert relay.cached == 64, "the pod that goes on finds more, and the first one counts"


def test_what_stands_before_a_slash_is_passed_on_and_not_kept() -> None:
    relay = EventRelay(before=3)
    events = b"id: abc.d0/0.3+0:5,6\ndata: {}\n\nid: abc.d1/0.5:7.\ndata: {}\n\n"
    assert relay.feed(events) == events
    assert (relay.delivered(), relay.tokens, relay.cached) == ({0: Delivered([5, 6, 7], True)}, 3, 0)


def test_an_event_without_tokens_has_no_id() -> None:
    assert sse(b"{}") == b"data: {}\n\n"
    assert sse(b"{}", [5, 6], 1, 9) == b"id: 1.9:5,6\ndata: {}\n\n"
    assert sse(b"{}", [], 0, 3, final=True) == b"id: 0.3:.\ndata: {}\n\n"


def test_an_id_of_another_kind_is_an_error_only_when_it_is_needed() -> None:
    relay = EventRelay()
    assert relay.feed(b"id: 7\ndata: {}\n\n") == b"id: 7\ndata: {}\n\n"
    with pytest.raises(Failed, match="cannot be read"):
        relay.delivered()
