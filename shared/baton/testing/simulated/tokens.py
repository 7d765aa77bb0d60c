"""What a simulated worker says: token k of a sequence is a function of its prompt, its seed and k alone.

So whoever reads an answer, in one piece or resumed by several workers, can say whether it is right.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_STRIDE = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


class TokenSource:
    """All tokens of one sequence, by their places."""

    __slots__ = ("_base", "_vocabulary")

    def __init__(self, base: int, vocabulary: int) -> None:
        self._base = base
        self._vocabulary = vocabulary

    def __getitem__(self, place: int) -> int:
        mixed = (self._base + place * _STRIDE) & _MASK
        return ((mixed ^ (mixed >> 29)) * _STRIDE & _MASK) % self._vocabulary

    def first(self, count: int) -> list[int]:
        return [self[place] for place in range(count)]


def token_source(prompt: Sequence[int], seed: int | None, vocabulary: int) -> TokenSource:
    """A seed of None stands for greedy."""
    told = blake2b(
        array("i", prompt).tobytes(), digest_size=8, salt=(seed or 0).to_bytes(16, "little", signed=True)
    )
    return TokenSource(int.from_bytes(told.digest(), "little"), vocabulary)


def text_of(token_ids: Sequence[int]) -> str:
    return "".join([f" {token}" for token in token_ids])
