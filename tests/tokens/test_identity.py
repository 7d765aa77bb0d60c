from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.errors import InvalidField
from baton.tokens.identity import IDENTITY_BYTES, Chain, extend_identities, page_identities, root_salt

ids = st.lists(st.integers(0, 2**31 - 1), max_size=70)


def test_the_chain_is_pinned_so_that_two_versions_of_a_fleet_agree() -> None:
    assert [i.hex() for i in page_identities(range(5), 2, b"salt")] == [
        "bc802c2081aa800c031b0ee62697ba73",
        "017c7e6866a76a90b23469be6d2429d4",
    ]
    assert (
        root_salt("model", "adapter", "tenant").hex()
        == "65bf20a396cf07136cb1a458922b9d5823a5024f5cfe947bcce2ab357ef0124e"
    )


def test_only_full_pages_have_an_identity() -> None:
    assert page_identities([], 4) == ()
    assert page_identities([1, 2, 3], 4) == ()
    assert len(page_identities([1] * 8, 4)) == 2
    assert len(page_identities([1] * 11, 4)) == 2
    assert all(len(i) == IDENTITY_BYTES for i in page_identities([1] * 11, 4))


@given(ids, st.integers(1, 17), st.binary(max_size=80))
def test_a_common_prefix_and_only_that_has_common_identities(
    token_ids: list[int], page: int, salt: bytes
) -> None:
    chain = page_identities(token_ids, page, salt)
    assert len(set(chain)) == len(chain) == len(token_ids) // page
    for at in range(0, len(token_ids), 7):
        other = list(token_ids)
        other[at] ^= 1
        changed = page_identities(other, page, salt)
        assert changed[: at // page] == chain[: at // page]
        assert not set(changed[at // page :]) & set(chain)


@given(ids, st.binary(max_size=80), st.binary(max_size=80))
def test_two_salts_share_nothing(token_ids: list[int], one: bytes, two: bytes) -> None:
    shared = set(page_identities(token_ids, 4, one)) & set(page_identities(token_ids, 4, two))
    assert bool(shared) == (one == two and len(token_ids) >= 4)


def test_a_salt_is_not_a_prefix_of_the_prompt() -> None:
    page = np.arange(4, dtype="<i4")
    assert page_identities(page, 4, b"")[0] != page_identities([], 4, page.tobytes())
    assert page_identities([9, 9, *page], 2, b"")[2:] != page_identities(page, 2, b"\x09\0\0\0" * 2)[1:]


def test_every_container_of_the_same_ids_gives_the_same_chain() -> None:
    plain = [5, 0, 2**31 - 1, 7, 151_643, 9, 1]
    expected = page_identities(plain, 3, b"s")
    assert len(expected) == 2
    strided = np.repeat(np.array(plain, dtype=np.int32), 2)[::2]
    for same in (
        tuple(plain),
        array("i", plain),
        np.array(plain, dtype=np.int32),
        np.array(plain, dtype=np.int64),
        np.array(plain, dtype=">i4"),
        np.array(plain, dtype=np.uint32),
        strided,
    ):
        assert page_identities(same, 3, b"s") == expected


@pytest.mark.parametrize(
    "bad",
    [
        [1.5],
        ["1"],
        [2**31],
        np.array([2**31]),
        np.array([2**31], dtype=np.uint32),
        np.array([1.0]),
        np.zeros((2, 2), int),
    ],
)
def test_what_is_no_int32_is_refused(bad: object) -> None:
    with pytest.raises(InvalidField, match="token_ids"):
        page_identities(bad, 1)  # type: ignore[arg-type]


@given(ids, st.integers(1, 9), st.integers(0, 70))
@settings(max_examples=50)
def test_a_chain_that_grows_token_by_token_equals_the_chain_of_the_whole(
    token_ids: list[int], page: int, cut: int
) -> None:
    whole = page_identities(token_ids, page, b"s")
    prompt, generated = token_ids[:cut], token_ids[cut:]
    for carried in (None, page_identities(prompt, page, b"s")):
        chain = Chain(prompt, page, b"s", carried)
        filled = [identity for t in generated if (identity := chain.append(t)) is not None]
        assert tuple(chain.identities) == whole
        assert tuple(filled) == whole[len(prompt) // page :]
        assert len(chain) == len(token_ids)
    assert Chain(prompt, page, b"s").extend(generated) == whole[len(prompt) // page :]
    full = len(prompt) // page * page
    before = page_identities(prompt, page, b"s")
    assert before + extend_identities(before, token_ids[full:], page, b"s") == whole


def test_a_chain_refuses_identities_that_are_not_of_its_prompt() -> None:
    with pytest.raises(InvalidField, match="identities"):
        Chain([1, 2, 3, 4], 2, b"", page_identities([1, 2], 2))


def test_parts_of_the_root_salt_cannot_run_into_each_other() -> None:
    salts = [
        root_salt("m", "ab", "c"),
        root_salt("m", "a", "bc"),
        root_salt("ma", "b", "c"),
        root_salt("m", "", "abc"),
        root_salt("m", "abc", ""),
        root_salt("m", "abc", "", b""),
        root_salt("m", "abc", "", b"image"),
    ]
    assert len(set(salts)) == len(salts)
    assert root_salt("m", "ab", "c") == salts[0]
