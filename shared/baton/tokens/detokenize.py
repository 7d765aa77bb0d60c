"""Turns a sequence's token ids into text as they come, each character once and in order.

The decode pod owns one detokenizer per sequence. What it gives is decided for good: the pieces put
together equal decoding all ids at once, so bytes that may still become a character are held back
until a later token, or `finish`, decides them. Cost per token does not grow with the text.

A detokenizer starts after its `context`, the prompt: a word that follows the prompt keeps the space
before it, and a character that the prompt began is completed. It is a function of the ids alone, so a
resumed sequence that replays its ids has the same text decided at the same token.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable, Sequence
from typing import Protocol

from baton.tokens.pieces import Family, Piece, Pieces
from baton.tokens.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_LONGEST_CHARACTER = 4
# Tokens of the prompt that the library is shown again with new ones, where it does the decoding.
_WINDOW = 8
# The library's text may end in U+FFFD because the model wrote just that; then holding back must end.
_LONGEST_HOLD = 16


class Detokenizer(Protocol):
    """Not thread-safe; one owner."""

    @property
    def offset(self) -> int:
        """Characters decided so far: where the text of the next token begins, at the earliest."""
        ...

    def push(self, token_id: int) -> str:
        """The text that this token decided; often the token's own, sometimes none."""
        ...

    def extend(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens decided together."""
        ...

    def finish(self) -> str:
        """No token follows: what was held back."""
        ...


def detokenizer(
    tokenizer: Tokenizer, context: Sequence[int] = (), *, skip_special: bool = True
) -> Detokenizer:
    """The detokenizer for text that continues `context`."""
    match tokenizer.decoding.family:
        case Family.BYTE_LEVEL:
            return ByteLevelDetokenizer(tokenizer.pieces(skip_special), context)
        case Family.BYTE_FALLBACK:
            strip = tokenizer.decoding.strips_first_space
            return ByteFallbackDetokenizer(tokenizer.pieces(skip_special), context, strip)
        case Family.OTHER:
            return WindowDetokenizer(tokenizer, context, skip_special)


class ByteLevelDetokenizer:
    """Tokens are bytes. Held back: the beginning of one UTF-8 character, at most three bytes."""

    __slots__ = ("_held", "_pieces", "offset")

    def __init__(self, pieces: Pieces, context: Sequence[int] = ()) -> None:
        self.offset = 0
        self._pieces = pieces
        self._held = b""
        # A character has at most four bytes, so older pieces cannot have left one unfinished.
        for piece in _last_pieces(pieces, context, _LONGEST_CHARACTER):
            self._decide(piece)

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        text = piece if type(piece) is str and not self._held else self._decide(piece)
        self.offset += len(text)
        return text

    def extend(self, token_ids: Iterable[int]) -> str:
        return "".join(map(self.push, token_ids))

    def finish(self) -> str:
        text = self._give_up()
        self.offset += len(text)
        return text

    def _decide(self, piece: Piece) -> str:
        if isinstance(piece, str):
            return self._give_up() + piece if piece else ""
        content = self._held + piece
        text, used = utf_8_decode(content, "replace", False)
        self._held = content[used:]
        return text

    def _give_up(self) -> str:
        """What is held will be no character: one replacement, or two for the beginning of a surrogate, which
        the codec holds back as well, though nothing can follow that makes it one."""
        text, self._held = self._held.decode("utf-8", "replace"), b""
        return text


class ByteFallbackDetokenizer:
    """Tokens are text, except those that are one byte. A run of byte tokens is UTF-8 only as a whole,
    so the run is held back until a text token, or the end, closes it."""

    __slots__ = ("_pieces", "_run", "_strip", "offset")

    def __init__(self, pieces: Pieces, context: Sequence[int] = (), strips_first_space: bool = False) -> None:
        self.offset = 0
        self._pieces = pieces
        self._run = _unfinished_run(pieces, context)
        # Only the very first space of the whole text is dropped, so not after a prompt with text.
        self._strip = strips_first_space and not any(pieces[token_id] for token_id in context)

    def push(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if not piece:
            return ""
        if isinstance(piece, bytes):
            self._run += piece
            return ""
        text = self._close_run() + piece if self._run else piece
        return self._count(text)

    def extend(self, token_ids: Iterable[int]) -> str:
        return "".join(map(self.push, token_ids))

    def finish(self) -> str:
        return self._count(self._close_run())

    def _close_run(self) -> str:
        run, self._run = self._run, b""
        try:
            return run.decode()
        except UnicodeDecodeError:
            return REPLACEMENT * len(run)

    def _count(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        self.offset += len(text)
        return text


class WindowDetokenizer:
    """For every other decoder: asks the library for a short window of tokens, with and without the new
    ones, and takes the difference. Two offsets into the ids mark what the window repeats and what is
    decided; both move forward together with the text."""

    __slots__ = ("_decided", "_ids", "_silent", "_tokenizer", "offset")

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = (), skip_special: bool = True) -> None:
        self.offset = 0
        self._tokenizer = tokenizer
        self._silent = tokenizer.special_ids if skip_special else frozenset()
        shown = [token_id for token_id in context[-_WINDOW:] if token_id not in self._silent]
        self._ids = shown
        self._decided = len(shown)

    def push(self, token_id: int) -> str:
        if token_id in self._silent or not self._tokenizer.token(token_id):
            return ""
        self._ids.append(token_id)
        return self._decide(final=False)

    def extend(self, token_ids: Iterable[int]) -> str:
        return "".join(map(self.push, token_ids))

    def finish(self) -> str:
        return self._decide(final=True)

    def _decide(self, final: bool) -> str:
        ids = self._ids
        text = self._tokenizer.decode(ids, skip_special=False)
        before = self._tokenizer.decode(ids[: self._decided], skip_special=False)
        waits = text.endswith(REPLACEMENT) and len(ids) - self._decided < _LONGEST_HOLD
        if len(text) <= len(before) or (waits and not final):
            return ""
        # The window keeps what was undecided, so that the next difference starts at a text of its own.
        self._ids = ids[self._decided :]
        self._decided = len(self._ids)
        self.offset += len(text) - len(before)
        return text[len(before) :]


def _last_pieces(pieces: Pieces, context: Sequence[int], count: int) -> list[Piece]:
    """The last `count` pieces of the context that are not empty, in order."""
    found: list[Piece] = []
    for token_id in reversed(context):
        if piece := pieces[token_id]:
            found.append(piece)
            if len(found) == count:
                break
    return found[::-1]


def _unfinished_run(pieces: Pieces, context: Sequence[int]) -> bytes:
    """The bytes of a character that the context's last run of byte tokens began and did not finish."""
    run: list[bytes] = []
    for token_id in reversed(context):
        piece = pieces[token_id]
        if isinstance(piece, bytes):
            run.append(piece)
        elif piece:
            break
    content = b"".join(reversed(run))
    try:
        _, used = utf_8_decode(content, "strict", False)
    except UnicodeDecodeError:
        return b""
    return content[used:]
