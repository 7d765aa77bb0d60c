"""What one token contributes to a text, for each family of decoders that tokenizers use.

`Tokenizer` makes one table per request option; detokenizers read it once per token, so it answers
from a dict after the first time. A piece is `str` when the token stands for whole characters and
`bytes` when it stands for a part of one, which only its neighbours complete. Two families cover
nearly every model: byte-level BPE (Qwen, Llama 3, GPT) and BPE with byte fallback (Llama 2, Gemma,
Mistral). Any other decoder has no pieces, and its detokenizer asks the `tokenizers` library instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

Piece = str | bytes

METASPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9a-fA-F]{2})>")


class Family(Enum):
    BYTE_LEVEL = "byte_level"
    """Every token is bytes; invalid UTF-8 becomes U+FFFD per faulty sequence."""
    BYTE_FALLBACK = "byte_fallback"
    """Tokens are text except `<0xXX>`; a run of those is UTF-8 as a whole or U+FFFD per byte."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a tokenizer's decoder turns tokens into text."""

    family: Family
    strips_first_space: bool = False
    """A space that opens the whole text is dropped (it came from the first word's metaspace)."""


def decoding_of(decoder: Any) -> Decoding:
    """Recognise the `decoder` object of a tokenizer.json."""
    match decoder:
        case {"type": "ByteLevel"}:
            return Decoding(Family.BYTE_LEVEL)
        case {"type": "Sequence", "decoders": [*steps]}:
            return _decoding_of_steps(steps)
        case _:
            return Decoding(Family.OTHER)


def _decoding_of_steps(steps: list[Any]) -> Decoding:
    match steps:
        case [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *rest,
        ]:
            match rest:
                case []:
                    return Decoding(Family.BYTE_FALLBACK)
                case [{"type": "Strip", "content": " ", "start": 0 | 1 as start, "stop": 0}]:
                    return Decoding(Family.BYTE_FALLBACK, strips_first_space=start == 1)
    return Decoding(Family.OTHER)


class Pieces(dict[int, Piece]):
    """Token id → piece, filled as it is asked. Ids that give nothing (unknown, or special tokens that
    are skipped) give the empty string. Shared by all requests: entries never change once made."""

    __slots__ = ("_read", "_silent", "_token")

    def __init__(self, family: Family, token: Callable[[int], str | None], silent: frozenset[int]) -> None:
        super().__init__()
        self._token = token
        self._silent = silent
        self._read = _byte_level_piece if family is Family.BYTE_LEVEL else _byte_fallback_piece

    def __missing__(self, token_id: int) -> Piece:
        token = None if token_id in self._silent else self._token(token_id)
        piece = self[token_id] = "" if token is None else self._read(token)
        return piece


def _byte_fallback_piece(token: str) -> Piece:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace(METASPACE, " ")


def _byte_level_piece(token: str) -> Piece:
    try:
        content = bytes([_BYTE_OF[character] for character in token])
    except KeyError:
        # An added token with characters outside the byte alphabet stands for its own text.
        return token
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves; the rest take the characters from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return alphabet


_BYTE_OF = _byte_alphabet()
